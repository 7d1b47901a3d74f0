//! What can be wrong with PTX, and with what it does.

/// PTX that cannot be read, or has something that is not emulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the PTX: expected {expected}; found `{found}`")]
pub struct ParseError {
    /// The line, from 1 on.
    pub line: u32,
    /// What would have been right.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, expected: impl Into<String>, found: impl std::fmt::Display) -> ParseError {
        ParseError { line, expected: expected.into(), found: found.to_string() }
    }
}

/// What a kernel did that it must not do, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("CTA {cta:?}, warp {warp}, line {line} of the PTX: {what}\n    {text}")]
pub struct Fault {
    /// The CTA in its grid.
    pub cta: [u32; 3],
    /// The warp in its CTA.
    pub warp: usize,
    /// The line of the instruction, from 1 on.
    pub line: u32,
    /// The instruction, cut where it is long.
    pub text: String,
    /// What is wrong.
    pub what: Wrong,
}

/// What a kernel must not do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// An access outside of everything that the launch gave the kernel.
    #[error(
        "{action} {bytes} bytes of {space} memory at {address:#x}, which is outside of what the kernel may use"
    )]
    OutOfBounds {
        /// `reads` or `writes`.
        action: &'static str,
        /// `global`, `shared` or `parameter`.
        space: &'static str,
        /// Where.
        address: u64,
        /// How much.
        bytes: usize,
    },
    /// A write to memory that the launch gave to be read.
    #[error("writes {bytes} bytes of global memory at {address:#x}, which was given to be read")]
    ReadOnly {
        /// Where.
        address: u64,
        /// How much.
        bytes: usize,
    },
    /// An address that is not a multiple of what the instruction asks for.
    #[error("the address {address:#x} is not a multiple of {align}")]
    Misaligned {
        /// Where.
        address: u64,
        /// The multiple.
        align: usize,
    },
    /// A cache policy that no `createpolicy` gave.
    #[error("{found:#x} is no L2 policy")]
    Policy {
        /// What it is.
        found: u64,
    },
    /// Shared memory that nothing was written to.
    #[error("reads shared memory at {address:#x}, which was never written")]
    Uninitialized {
        /// Where.
        address: u64,
    },
    /// Two accesses of shared memory, one of them a write, that nothing orders.
    #[error(
        "{action} shared memory at {address:#x}, which {other} {other_action} without anything that orders the two"
    )]
    Race {
        /// What this one does: `reads` or `writes`.
        action: &'static str,
        /// Where.
        address: u64,
        /// Who the other one is.
        other: String,
        /// What it did: `read` or `wrote`.
        other_action: &'static str,
    },
    /// A bulk copy overwrites what threads loaded without a proxy fence behind the loads.
    #[error(
        "a bulk copy overwrites shared memory at {address:#x}, which {other} loaded, without a `fence.proxy.async` between"
    )]
    LoadFence {
        /// Where.
        address: u64,
        /// Who loaded it.
        other: String,
    },
    /// An asynchronous operation reads what threads wrote without a proxy fence between.
    #[error(
        "an asynchronous operation reads shared memory at {address:#x}, which {other} wrote, without a `fence.proxy.async` between"
    )]
    ProxyFence {
        /// Where.
        address: u64,
        /// Who wrote it.
        other: String,
    },
    /// An access to shared memory that an asynchronous operation still reads or writes.
    #[error("{action} shared memory at {address:#x} while an asynchronous operation {other} it")]
    InFlight {
        /// `reads` or `writes`.
        action: &'static str,
        /// Where.
        address: u64,
        /// What the operation does: `reads` or `writes`.
        other: &'static str,
    },
    /// A register that a `wgmma` in flight reads or writes.
    #[error("touches register {register} while a wgmma in flight uses it")]
    RegisterInFlight {
        /// Its name.
        register: String,
    },
    /// A register of a `wgmma` was written without a `wgmma.fence` after.
    #[error("register {register} was written after the last `wgmma.fence`")]
    Unfenced {
        /// Its name.
        register: String,
    },
    /// Lanes of a warp are not together where they must be.
    #[error("only lanes {found:#010x} of the warp are here; {wanted:#010x} must be")]
    Divergent {
        /// The lanes that are.
        found: u32,
        /// The lanes that must be.
        wanted: u32,
    },
    /// Every warp waits.
    #[error("deadlock; the warps wait: {warps}")]
    Deadlock {
        /// Each warp with what it waits for.
        warps: String,
    },
    /// An mbarrier where none was initialized, or one that got more than it expects.
    #[error("the mbarrier at {address:#x} {what}")]
    Mbarrier {
        /// Where.
        address: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The end of a CTA with something asynchronous under way.
    #[error("the kernel ends while {what} is under way")]
    Unfinished {
        /// What is.
        what: &'static str,
    },
    /// Something reaches the shared memory of a CTA that has ended.
    #[error("reaches the shared memory of a CTA that may have ended")]
    Ended,
    /// Integer division by zero.
    #[error("divides an integer by zero")]
    DivisionByZero,
    /// More instructions than the launch allows.
    #[error("{0} instructions were executed: more than the launch allows")]
    TooLong(u64),
    /// Something that is not emulated.
    #[error("{0} is not emulated")]
    Unsupported(String),
    /// The launch does not fit the kernel.
    #[error("the launch does not fit the kernel: {0}")]
    Launch(String),
}
