"""An example rates service: one JSON answer for each base currency."""
