"""The mathematics: arrays in, arrays out. No paths, prints, progress bars or config objects."""
