"""Side-by-side measurements: the fast way against the obvious way, Pellucid against its peers."""
