"""`restain demo`: the whole way from drawn tissue to a page that judges two virtual stains by the truth."""
