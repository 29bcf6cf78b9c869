"""One file per probe; a file registers its class in `ssvid.registry.probes` and is found by its name."""
