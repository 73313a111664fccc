"""The counter of a small parcel depot."""
