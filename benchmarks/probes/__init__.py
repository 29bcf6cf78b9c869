"""One file for each probe. A file registers its class under a name in `ssvid.registry.probes`."""
