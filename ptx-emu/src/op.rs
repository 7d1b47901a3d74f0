//! Instructions: what an opcode says, without its operands.

use crate::numeric::{Factor, Float};
use smallvec::SmallVec;

/// The number of a register of a thread.
pub(crate) type Slot = u32;

/// A value that the hardware gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    WarpId,
    /// The number of the CTA in its cluster.
    ClusterRank,
    /// Where the dynamic shared memory starts.
    SharedBase,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    Reg(Slot),
    /// A predicate, negated.
    Not(Slot),
    Imm(u64),
    Special(Special),
    /// `_`: a result that nobody wants.
    Sink,
    Vector(Vec<Arg>),
    /// `a|b`: two results.
    Pair(Slot, Slot),
    /// `[base + offset]`, or with coordinates `[base, {x, y}]`.
    Memory {
        base: Box<Arg>,
        offset: u64,
        coordinates: Vec<Arg>,
    },
    /// An instruction, by number; a name until the end of its scope.
    Target(usize),
}

/// An instruction with its operands.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    /// The predicate under which it is executed, and whether it is negated.
    pub guard: Option<(Slot, bool)>,
    pub op: Op,
    pub args: Vec<Arg>,
    /// The L2 policy, its last operand.
    pub policy: Option<Arg>,
    pub line: u32,
}

/// What `createpolicy` gives; the bits are nobody's business.
pub(crate) const POLICY: u64 = 0x4c32_706f_6c69_6379;

/// How the bits of an integer are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Int {
    pub bits: u32,
    pub signed: bool,
}

impl Int {
    /// The bits as a number.
    #[inline]
    pub fn value(self, bits: u64) -> i128 {
        let unused = 64 - self.bits;
        if self.signed {
            i128::from((bits << unused) as i64 >> unused)
        } else {
            i128::from(bits << unused >> unused)
        }
    }

    /// The low bits of a number.
    #[inline]
    pub fn wrap(self, value: u64) -> u64 {
        value & (u64::MAX >> (64 - self.bits))
    }
}

/// A type of a scalar instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Pred,
    Int(Int),
    Float(Float),
    /// Two floats of 16 bits.
    Pair(Float),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Param,
    Global,
    Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arith {
    Add,
    Sub,
    Mul,
    MulHi,
    Div,
    Rem,
    Min,
    Max,
    /// The minimum, but not below zero.
    MinRelu,
    /// The minimum and maximum that hand NaN on.
    MinNan,
    MaxNan,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Neg,
    Abs,
    Not,
    Exp2,
    Log2,
    Rsqrt,
    Sqrt,
    Rcp,
    Tanh,
    Sin,
    Cos,
    Popc,
    Clz,
    Brev,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What one side of a conversion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Int(Int),
    Float(Float),
    Tf32,
    Bf16x2,
    F16x2,
    E4m3x2,
    E2m1x2,
}

/// How a float becomes an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Nearest,
    Down,
    Up,
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Idx,
    Bfly,
    Up,
    Down,
}

/// The shape of a product of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    /// Columns of the accumulator.
    pub n: usize,
    /// The summed dimension.
    pub k: usize,
    pub factor: Factor,
    /// One scale in E4M3 for 16 elements of a row.
    pub scaled: bool,
}

/// An instruction without its operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Op {
    /// Of so many bits; also joins parts, or takes a word apart.
    Mov(u32),
    Load {
        space: Space,
        bytes: usize,
        signed: bool,
    },
    Store {
        space: Space,
        bytes: usize,
    },
    Arith(Arith, Type),
    /// A product of twice the width.
    MulWide(Int),
    Mad {
        ty: Int,
        wide: bool,
    },
    Fma(Type),
    /// A shorter float plus or minus an f32.
    MixedSum {
        short: Float,
        subtracts: bool,
    },
    /// The product of shorter floats, plus an f32.
    MixedFma(Float),
    Function {
        function: Function,
        ty: Type,
        ftz: bool,
    },
    BitField(Int),
    Permute,
    Logic3,
    Funnel {
        left: bool,
        wrap: bool,
    },
    /// A comparison; of floats with whether NaN makes it true; combined with a predicate.
    SetPredicate {
        compare: Compare,
        ty: Type,
        unordered: bool,
        with: Option<Arith>,
    },
    /// Whether an operand is NaN (or none is).
    SetNan {
        ty: Float,
        nan: bool,
    },
    Select,
    Convert {
        to: Number,
        from: Number,
        round: Round,
        relu: bool,
    },
    Branch,
    Return,
    Trap,
    /// `bar.sync`, and `bar.arrive`.
    Barrier {
        waits: bool,
    },
    /// `bar.red`: the disjunction or conjunction of all threads' predicates.
    BarrierReduce {
        any: bool,
    },
    WarpBarrier,
    Shuffle(Shuffle),
    Elect,
    /// Any L2 policy: what it says of speed is not modelled.
    CreatePolicy,
    /// `vote.sync.all`: whether a predicate holds in every thread.
    VoteAll,
    /// An atomic operation; with its old value, or without.
    Atomic {
        kind: Atomic,
        ty: Type,
        returns: bool,
    },
    Mma(Product),
    LoadMatrix {
        transposed: bool,
    },
    StoreMatrix {
        transposed: bool,
    },
    CopyAsync {
        bytes: usize,
    },
    CopyCommit,
    CopyWait {
        all: bool,
    },
    MbarrierInit,
    MbarrierArrive {
        expects: bool,
    },
    /// At an mbarrier of any CTA of the cluster.
    ClusterMbarrierArrive,
    /// The address of another CTA's shared memory.
    MapShared,
    /// The barrier of all threads of a cluster.
    ClusterArrive,
    ClusterWait,
    MbarrierTryWait,
    FenceProxyAsync,
    /// Orders what is ordered here anyway.
    Nothing,
    /// With `cluster`, to the CTAs in a mask.
    BulkLoad {
        cluster: bool,
    },
    BulkStore,
    BulkPrefetch,
    BulkCommit,
    BulkWait {
        read: bool,
    },
    WgmmaFence,
    Wgmma(Product),
    WgmmaCommit,
    WgmmaWait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Inc,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

impl Op {
    /// Executed by all threads of a warp together.
    pub fn is_collective(self) -> bool {
        matches!(
            self,
            Op::Barrier { .. }
                | Op::BarrierReduce { .. }
                | Op::ClusterArrive
                | Op::ClusterWait
                | Op::WarpBarrier
                | Op::Shuffle(_)
                | Op::Elect
                | Op::VoteAll
                | Op::Mma(_)
                | Op::LoadMatrix { .. }
                | Op::StoreMatrix { .. }
                | Op::WgmmaFence
                | Op::Wgmma(_)
                | Op::WgmmaCommit
                | Op::WgmmaWait
        )
    }
}

fn int(name: &str) -> Option<Int> {
    let bits = name.get(1..)?.parse().ok().filter(|bits| [8, 16, 32, 64].contains(bits))?;
    match name.as_bytes()[0] {
        b'b' | b'u' => Some(Int { bits, signed: false }),
        b's' => Some(Int { bits, signed: true }),
        _ => None,
    }
}

fn float(name: &str) -> Option<Float> {
    Some(match name {
        "f16" => Float::F16,
        "bf16" => Float::Bf16,
        "f32" => Float::F32,
        "f64" => Float::F64,
        _ => return None,
    })
}

fn scalar(name: &str) -> Option<Type> {
    match name {
        "pred" => Some(Type::Pred),
        "f16x2" => Some(Type::Pair(Float::F16)),
        "bf16x2" => Some(Type::Pair(Float::Bf16)),
        _ => int(name).map(Type::Int).or_else(|| float(name).map(Type::Float)),
    }
}

fn number(name: &str) -> Option<Number> {
    Some(match name {
        "tf32" => Number::Tf32,
        "bf16x2" => Number::Bf16x2,
        "f16x2" => Number::F16x2,
        "e4m3x2" => Number::E4m3x2,
        "e2m1x2" => Number::E2m1x2,
        _ => match scalar(name)? {
            Type::Int(int) => Number::Int(int),
            Type::Float(float) => Number::Float(float),
            _ => return None,
        },
    })
}

fn factor(name: &str) -> Option<Factor> {
    Some(match name {
        "f16" => Factor::F16,
        "bf16" => Factor::Bf16,
        "tf32" => Factor::Tf32,
        "e4m3" => Factor::E4m3,
        "e2m1" => Factor::E2m1,
        _ => return None,
    })
}

/// Columns and summed dimension in a name such as `m16n8k16`.
fn shape(name: &str, m: &str) -> Option<(usize, usize)> {
    let (n, k) = name.strip_prefix(m)?.split_once('k')?;
    Some((n.parse().ok()?, k.parse().ok()?))
}

/// What an opcode says. None for one that is not emulated.
pub(crate) fn decode(opcode: &str) -> Option<Op> {
    let parts: SmallVec<[&str; 16]> = opcode.split('.').collect();
    let (name, rest) = parts.split_first()?;
    let has = |part: &str| rest.contains(&part);
    let last = *rest.last().unwrap_or(&"");
    let ty = scalar(last);
    let integer = || int(last);
    match *name {
        "cvta" => Some(Op::Mov(64)),
        "mov" => match as_bits(ty?) {
            Type::Int(int) => Some(Op::Mov(int.bits)),
            _ => Some(Op::Mov(1)),
        },
        "ld" | "ldu" => {
            let Type::Int(Int { bits, signed }) = as_bits(ty?) else { return None };
            Some(Op::Load { space: space(rest)?, bytes: bits as usize / 8, signed })
        }
        "st" => {
            let Type::Int(Int { bits, .. }) = as_bits(ty?) else { return None };
            Some(Op::Store { space: space(rest)?, bytes: bits as usize / 8 })
        }
        "fma" if matches!(rest, [.., "f32", "f16" | "bf16"]) => Some(Op::MixedFma(float(last)?)),
        "add" | "sub" if matches!(rest, [.., "f32", "f16" | "bf16"]) => {
            Some(Op::MixedSum { short: float(last)?, subtracts: *name == "sub" })
        }
        "fma" => Some(Op::Fma(ty?)),
        "mad" if has("wide") => Some(Op::Mad { ty: integer()?, wide: true }),
        "mad" if has("lo") => Some(Op::Mad { ty: integer()?, wide: false }),
        "mad" => Some(Op::Fma(ty?)),
        "mul" if has("wide") => Some(Op::MulWide(integer()?)),
        "bfe" => Some(Op::BitField(integer()?)),
        "prmt" => Some(Op::Permute),
        "lop3" => Some(Op::Logic3),
        "shf" => Some(Op::Funnel { left: has("l"), wrap: has("wrap") }),
        "setp" => decode_setp(rest, ty?),
        "selp" => Some(Op::Select),
        "cvt" => decode_convert(rest),
        "bra" => Some(Op::Branch),
        "ret" | "exit" => Some(Op::Return),
        "trap" => Some(Op::Trap),
        "barrier" if has("cluster") && has("arrive") => Some(Op::ClusterArrive),
        "barrier" if has("cluster") && has("wait") => Some(Op::ClusterWait),
        "mapa" if has("shared::cluster") && last == "u32" => Some(Op::MapShared),
        "bar" if has("warp") => Some(Op::WarpBarrier),
        "bar" | "barrier" if has("red") => Some(Op::BarrierReduce { any: has("or") }),
        "bar" | "barrier" if has("sync") => Some(Op::Barrier { waits: true }),
        "bar" | "barrier" if has("arrive") => Some(Op::Barrier { waits: false }),
        "shfl" => Some(Op::Shuffle(match () {
            () if has("idx") => Shuffle::Idx,
            () if has("bfly") => Shuffle::Bfly,
            () if has("up") => Shuffle::Up,
            () if has("down") => Shuffle::Down,
            () => return None,
        })),
        "elect" => Some(Op::Elect),
        "vote" if has("all") && has("pred") => Some(Op::VoteAll),
        "atom" | "red" => decode_atomic(rest, ty?, *name == "atom"),
        "mma" => decode_mma(rest),
        "ldmatrix" if has("m8n8") && has("b16") => Some(Op::LoadMatrix { transposed: has("trans") }),
        "stmatrix" if has("m8n8") && has("b16") => Some(Op::StoreMatrix { transposed: has("trans") }),
        "cp" => decode_copy(rest),
        "mbarrier" => decode_mbarrier(rest),
        "fence" if has("proxy") && has("async") => Some(Op::FenceProxyAsync),
        "fence" | "membar" | "setmaxnreg" | "prefetch" | "griddepcontrol" => Some(Op::Nothing),
        "createpolicy" if last == "b64" && has("fractional") => Some(Op::CreatePolicy),
        "wgmma" => decode_wgmma(rest),
        // Another type before the last is another instruction.
        _ if rest.iter().rev().skip(1).any(|part| scalar(part).is_some()) => None,
        _ => decode_function(name, rest, ty).or_else(|| Some(Op::Arith(arith(name, rest)?, ty?))),
    }
}

/// A type as loads see it.
fn as_bits(ty: Type) -> Type {
    let bits = |bits| Type::Int(Int { bits, signed: false });
    match ty {
        Type::Float(Float::F16 | Float::Bf16) => bits(16),
        Type::Float(Float::F32) | Type::Pair(_) => bits(32),
        Type::Float(Float::F64) => bits(64),
        ty => ty,
    }
}

fn space(rest: &[&str]) -> Option<Space> {
    rest.iter().find_map(|part| match *part {
        "param" => Some(Space::Param),
        "global" => Some(Space::Global),
        "shared" | "shared::cta" => Some(Space::Shared),
        _ => None,
    })
}

fn arith(name: &str, rest: &[&str]) -> Option<Arith> {
    let nan = rest.contains(&"NaN");
    Some(match name {
        "add" => Arith::Add,
        "sub" => Arith::Sub,
        "mul" if rest.contains(&"hi") => Arith::MulHi,
        "mul" => Arith::Mul,
        "div" => Arith::Div,
        "rem" => Arith::Rem,
        "min" if rest.contains(&"relu") => Arith::MinRelu,
        "min" if nan => Arith::MinNan,
        "max" if nan => Arith::MaxNan,
        "min" => Arith::Min,
        "max" => Arith::Max,
        "and" => Arith::And,
        "or" => Arith::Or,
        "xor" => Arith::Xor,
        "shl" => Arith::Shl,
        "shr" => Arith::Shr,
        _ => return None,
    })
}

fn decode_function(name: &str, rest: &[&str], ty: Option<Type>) -> Option<Op> {
    let function = match name {
        "neg" => Function::Neg,
        "abs" => Function::Abs,
        "not" => Function::Not,
        "ex2" => Function::Exp2,
        "lg2" => Function::Log2,
        "rsqrt" => Function::Rsqrt,
        "sqrt" => Function::Sqrt,
        "rcp" => Function::Rcp,
        "tanh" => Function::Tanh,
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "popc" => Function::Popc,
        "clz" => Function::Clz,
        "brev" => Function::Brev,
        _ => return None,
    };
    Some(Op::Function { function, ty: ty?, ftz: rest.contains(&"ftz") })
}

fn decode_setp(rest: &[&str], ty: Type) -> Option<Op> {
    let (compare, unordered) = match rest[0] {
        "eq" => (Compare::Eq, false),
        "ne" => (Compare::Ne, false),
        "lt" | "lo" => (Compare::Lt, false),
        "le" | "ls" => (Compare::Le, false),
        "gt" | "hi" => (Compare::Gt, false),
        "ge" | "hs" => (Compare::Ge, false),
        "equ" => (Compare::Eq, true),
        "neu" => (Compare::Ne, true),
        "ltu" => (Compare::Lt, true),
        "leu" => (Compare::Le, true),
        "gtu" => (Compare::Gt, true),
        "geu" => (Compare::Ge, true),
        name @ ("nan" | "num") => {
            let Type::Float(ty) = ty else { return None };
            return Some(Op::SetNan { ty, nan: name == "nan" });
        }
        _ => return None,
    };
    let with = rest.get(1).and_then(|name| arith(name, &[]));
    Some(Op::SetPredicate { compare, ty, unordered, with })
}

fn decode_convert(rest: &[&str]) -> Option<Op> {
    let [modifiers @ .., to, from] = rest else { return None };
    let has = |part: &str| modifiers.contains(&part);
    let round = match () {
        () if has("rmi") => Round::Down,
        () if has("rpi") => Round::Up,
        () if has("rzi") => Round::Zero,
        () => Round::Nearest,
    };
    let (to, from) = (number(to)?, number(from)?);
    // Rounding towards zero or infinity between floats.
    if has("rz") || has("rm") || has("rp") || has("rs") || has("sat") {
        return None;
    }
    Some(Op::Convert { to, from, round, relu: has("relu") })
}

fn decode_atomic(rest: &[&str], ty: Type, returns: bool) -> Option<Op> {
    let kind = rest.iter().find_map(|part| {
        Some(match *part {
            "add" => Atomic::Add,
            "inc" => Atomic::Inc,
            "min" => Atomic::Min,
            "max" => Atomic::Max,
            "and" => Atomic::And,
            "or" => Atomic::Or,
            "xor" => Atomic::Xor,
            "exch" => Atomic::Exch,
            "cas" => Atomic::Cas,
            _ => return None,
        })
    })?;
    rest.contains(&"global").then_some(Op::Atomic { kind, ty, returns })
}

fn decode_mma(rest: &[&str]) -> Option<Op> {
    let (n, k) = rest.iter().find_map(|part| shape(part, "m16n"))?;
    let scaled = rest.contains(&"block_scale");
    // d, a, b, c; behind them the type of the scales.
    let types = rest.strip_suffix(&["ue4m3"]).unwrap_or(rest);
    let [.., "f32", a, b, "f32"] = types else { return None };
    let product = Product { n, k, factor: factor(a)?, scaled };
    (a == b && n == 8 && scaled == rest.contains(&"scale_vec::4X")).then_some(Op::Mma(product))
}

fn decode_copy(rest: &[&str]) -> Option<Op> {
    let has = |part: &str| rest.contains(&part);
    match rest {
        ["async", "commit_group"] => Some(Op::CopyCommit),
        ["async", "wait_group"] => Some(Op::CopyWait { all: false }),
        ["async", "wait_all"] => Some(Op::CopyWait { all: true }),
        ["async", "bulk", "commit_group"] => Some(Op::BulkCommit),
        ["async", "bulk", "wait_group", read @ ..] => Some(Op::BulkWait { read: read == ["read"] }),
        ["async", "bulk", "tensor", _, "shared::cluster" | "shared::cta", "global", ..] => {
            Some(Op::BulkLoad { cluster: has("multicast::cluster") })
        }
        ["async", "bulk", "tensor", _, "global", "shared::cta", ..] => Some(Op::BulkStore),
        ["async", "bulk", "prefetch", "tensor", _, "L2", "global", ..] => Some(Op::BulkPrefetch),
        ["async", "ca" | "cg", "shared" | "shared::cta", "global", ..] => Some(Op::CopyAsync { bytes: 0 }),
        _ => None,
    }
}

fn decode_mbarrier(rest: &[&str]) -> Option<Op> {
    let own = rest.contains(&"shared::cta") || rest.contains(&"shared");
    match rest[0] {
        "init" if own => Some(Op::MbarrierInit),
        "arrive" if own => Some(Op::MbarrierArrive { expects: rest.contains(&"expect_tx") }),
        "arrive" if rest == ["arrive", "shared::cluster", "b64"] => Some(Op::ClusterMbarrierArrive),
        "try_wait" if own && rest.contains(&"parity") => Some(Op::MbarrierTryWait),
        _ => None,
    }
}

fn decode_wgmma(rest: &[&str]) -> Option<Op> {
    match rest[0] {
        "fence" => Some(Op::WgmmaFence),
        "commit_group" => Some(Op::WgmmaCommit),
        "wait_group" => Some(Op::WgmmaWait),
        "mma_async" => {
            let (n, k) = rest.iter().find_map(|part| shape(part, "m64n"))?;
            let [.., "f32", a, b] = rest else { return None };
            let product = Product { n, k, factor: factor(a)?, scaled: false };
            (a == b).then_some(Op::Wgmma(product))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_told_apart_by_their_parts() {
        let int = |bits, signed| Int { bits, signed };
        let scaled = "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3";
        let cases = [
            ("ld.global.nc.v4.b32", Op::Load { space: Space::Global, bytes: 4, signed: false }),
            ("sub.rn.f32.bf16", Op::MixedSum { short: Float::Bf16, subtracts: true }),
            ("add.rn.f32", Op::Arith(Arith::Add, Type::Float(Float::F32))),
            ("mul.wide.u32", Op::MulWide(int(32, false))),
            ("shr.s32", Op::Arith(Arith::Shr, Type::Int(int(32, true)))),
            ("max.NaN.f32", Op::Arith(Arith::MaxNan, Type::Float(Float::F32))),
            ("bar.warp.sync", Op::WarpBarrier),
            (scaled, Op::Mma(Product { n: 8, k: 64, factor: Factor::E2m1, scaled: true })),
            (
                "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16",
                Op::Wgmma(Product { n: 256, k: 16, factor: Factor::Bf16, scaled: false }),
            ),
            ("cp.async.bulk.wait_group.read", Op::BulkWait { read: true }),
            ("fence.proxy.async.shared::cta", Op::FenceProxyAsync),
        ];
        for (opcode, op) in cases {
            assert_eq!(decode(opcode), Some(op), "{opcode}");
        }
        for opcode in [
            "tcgen05.mma.cta_group::1",
            "ld.local.b32",
            "cvt.rz.bf16.f32",
            "mul.rn.f32.bf16",
            "mbarrier.arrive.expect_tx.shared::cluster.b64",
        ] {
            assert_eq!(decode(opcode), None, "{opcode}");
        }
    }
}
