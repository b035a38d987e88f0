"""Which factors can be moved from one leaf to others, so that a function stays what it is."""
