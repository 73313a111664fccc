"""Models: routing, prices, limits and the client behind one interface."""
