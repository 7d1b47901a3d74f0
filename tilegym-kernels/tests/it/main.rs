//! Every kernel against its reference.

mod agreement;

mod support;
