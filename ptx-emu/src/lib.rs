//! Runs PTX on the CPU.
//!
//! [`Module::parse`] reads the PTX that this project's code generation makes, for any of its targets, and
//! [`Entry::run`] executes it: threads in warps, warps in turns, CTAs or clusters of them one after the other. It is as strict as the ISA
//! lets a GPU be, so that a test sees at once what a GPU would show now and then:
//!
//! - every access is checked: bounds, alignment, shared memory that was never written;
//! - accesses of shared memory by two warps that nothing orders are races, found by vector clocks whatever order the
//!   warps ran in; asynchronous reads want a proxy fence behind the writes of threads;
//! - asynchronous copies and products are done as late as they may be, and what they use is not to be touched until
//!   then: buffers of bulk copies, `cp.async` and `wgmma`, and the registers of a `wgmma`;
//! - what CTAs of a cluster do to each other's shared memory is checked like the rest, and that they have not ended;
//! - mbarriers that get one arrival too many, warps that wait for each other, work that nobody waits for.
//!
//! It does not see races between the threads of one warp, nor those between CTAs in global memory, and it knows nothing of time.
//!
//! ```
//! use ptx_emu::{Launch, Memory, Module, Param};
//! let ptx = ".version 8.0 .target sm_80 .address_size 64
//! .visible .entry double(.param .u64 double_param_0) {
//!   .reg .b32 %r<4>; .reg .b64 %rd<4>;
//!   ld.param.b64 %rd1, [double_param_0];
//!   mov.u32 %r1, %tid.x;
//!   mul.wide.u32 %rd2, %r1, 4;
//!   add.s64 %rd3, %rd1, %rd2;
//!   ld.global.b32 %r2, [%rd3];
//!   add.s32 %r3, %r2, %r2;
//!   st.global.b32 [%rd3], %r3;
//!   ret;
//! }";
//! let mut data = vec![0u8; 128];
//! data[4] = 21;
//! let mut memory = Memory::new();
//! let address = memory.lend(&mut data);
//! let module = Module::parse(ptx)?;
//! module.entry("double").unwrap().run(&Launch::new([1, 1, 1], 32), &[Param::Word(address)], &mut memory)?;
//! drop(memory);
//! assert_eq!(data[4], 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cluster;
mod exec;
mod fault;
mod lex;
mod machine;
mod memory;
mod numeric;
mod op;
mod order;
mod parse;
mod shared;
mod sync;
mod tensor_map;
mod warp;

pub use fault::{Fault, ParseError, Wrong};
pub use machine::{Done, Launch};
pub use memory::{Memory, Param};
pub use parse::{Entry, Module};
pub use tensor_map::TensorMap;
