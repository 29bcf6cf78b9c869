"""a folder of videos + a sentence of the user -> the moments that the sentence describes."""
