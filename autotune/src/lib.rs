//! Search spaces, pruning, cost model, records and the tile-tune command.
