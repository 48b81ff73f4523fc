"""Pictures for people: what was found or is true drawn into them."""
