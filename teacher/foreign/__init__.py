"""Teachers of other libraries: networks that autocoarse did not build, taken in as they are."""
