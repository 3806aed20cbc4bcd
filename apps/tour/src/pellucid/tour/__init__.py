"""Every Pellucid method once, on the zoo, in one report."""
