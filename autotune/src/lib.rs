//! Search spaces, pruning, the cost model, records and the `tile-tune` command.
//!
//! A [`subject::Subject`] is a kernel at one problem. [`sweep::sweep`] compiles, assembles, prunes and ranks its
//! candidates; [`configs::Configs`] keeps the winners in `configs/`. [`cli::main`] is the whole command, for any
//! program that links kernels.

pub mod bucket;
pub mod choice;
pub mod cli;
pub mod configs;
pub mod cost;
pub mod emulate;
pub mod error;
pub mod explain;
pub mod files;
pub mod footprint;
pub mod install;
pub mod journal;
pub mod live;
pub mod measure;
pub mod measured;
pub mod occupancy;
pub mod plan;
pub mod platform;
pub mod prune;
pub mod record;
pub mod roles;
pub mod schema;
pub mod subject;
pub mod sweep;
pub mod table;
pub mod work;

pub use error::TuneError;
pub use install::install;
