//! The `tile-tune` command, as a user meets it.

mod bad_input;
mod foreseen;
mod good_input;
mod measured;
mod support;
mod tables;
