"""Which rule applies where: typed sites, placed by one backward walk over the program."""
