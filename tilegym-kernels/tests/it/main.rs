//! Every kernel against its reference.

mod agreement;

mod resources;
mod support;
