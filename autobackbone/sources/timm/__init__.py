"""The timm source: any architecture of timm's registry, or a timm config on the Hub or in a folder."""
