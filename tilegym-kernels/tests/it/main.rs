//! Every kernel against its reference.

mod agreement;
#[cfg(feature = "cuda")]
mod cuda;
mod resources;
mod rows;
mod support;
