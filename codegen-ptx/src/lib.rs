//! Layouts, target descriptions and the way from the tile dialect to PTX.
