"""videos + labels that the user made up -> how well each label describes each video."""
