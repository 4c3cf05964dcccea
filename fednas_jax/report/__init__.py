"""Tables, figures, pages; comparing, pricing again, tiers."""
