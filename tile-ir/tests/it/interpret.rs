//! The interpreter against naive oracles, before and after the standard passes.

use crate::programs::matmul;
use tile_ir::interpret::{Arg, HostTensor, InterpretError, Interpreter, Scalar};
use tile_ir::{Module, STANDARD_PASSES, lower_program, run_passes, with_context};
use tile_lang::DType;
use tile_lang::config::TensorFacts;

/// Uniform numbers in -1..1 from a linear congruential generator.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() + 1.0) / 2.0 * limit as f64) as usize
    }

    pub fn tensor(&mut self, dtype: DType, shape: &[usize]) -> HostTensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.next()).collect();
        HostTensor::from_f64(dtype, shape, &values)
    }
}

/// Frobenius norm of the difference over that of the reference.
pub fn relative_error(found: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(found.len(), reference.len());
    let difference: f64 = found.iter().zip(reference).map(|(f, r)| (f - r) * (f - r)).sum();
    let norm: f64 = reference.iter().map(|r| r * r).sum();
    (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
}

/// Error that rounding the output (and, for f32, accumulating) accounts for.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-6,
        DType::F16 => 5e-4,
        _ => 4e-3,
    }
}

fn check_matmul(dtype: DType, [m, n, k]: [usize; 3], tile: [usize; 3]) {
    let mut random = Random(42);
    let (a, b) = (random.tensor(dtype, &[m, k]), random.tensor(dtype, &[n, k]));
    let (af, bf) = (a.to_f64(), b.to_f64());
    let reference: Vec<f64> =
        (0..m * n).map(|at| (0..k).map(|i| af[at / n * k + i] * bf[at % n * k + i]).sum()).collect();
    let grid = [m.div_ceil(tile[0]), n.div_ceil(tile[1]), 1];
    let results = with_context(|context| {
        let mut module = lower_program(&matmul(dtype, tile), &[TensorFacts::ALIGNED; 3], context).unwrap();
        let plain = run_matmul(&module, &a, &b, &[m, n], grid);
        run_passes(&mut module, STANDARD_PASSES).unwrap();
        [plain, run_matmul(&module, &a, &b, &[m, n], grid)]
    });
    assert_eq!(results[0].data, results[1].data, "the passes changed the result");
    let error = relative_error(&results[0].to_f64(), &reference);
    assert!(error < tolerance(dtype), "{dtype} {m}x{n}x{k}: relative error {error}");
}

fn run_matmul(
    module: &Module,
    a: &HostTensor,
    b: &HostTensor,
    shape: &[usize],
    grid: [usize; 3],
) -> HostTensor {
    let (mut a, mut b, mut c) = (a.clone(), b.clone(), HostTensor::zeros(a.dtype, shape));
    let mut args = [Arg::Tensor(&mut a), Arg::Tensor(&mut b), Arg::Tensor(&mut c)];
    Interpreter::new(module).unwrap().run(&mut args, grid).unwrap();
    c
}

#[test]
fn matmul_of_every_dtype_and_ragged_shape() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for shape in [[8, 8, 8], [1, 1, 1], [257, 129, 65]] {
            check_matmul(dtype, shape, [64, 32, 16]);
            check_matmul(dtype, shape, [1, 2, 4]);
        }
        check_matmul(dtype, [1024, 1024, 1023], [128, 128, 64]);
    }
}

fn run_text(text: &str, args: &mut [Arg], grid: [usize; 3]) -> Result<(), InterpretError> {
    with_context(|c| tile_ir::interpret::run(&Module::parse(c, text).unwrap(), args, grid))
}

#[test]
fn arguments_are_checked() {
    let text = "func.func @f(%v: !tile.view<2 : i64, f16>, %s: f32) { return }";
    let mut right = HostTensor::zeros(DType::F16, &[2, 2]);
    assert!(run_text(text, &mut [Arg::Tensor(&mut right), Arg::Scalar(Scalar::F32(1.0))], [1, 1, 1]).is_ok());
    let message = |args: &mut [Arg]| run_text(text, args, [1, 1, 1]).unwrap_err().to_string();
    assert_eq!(message(&mut []), "0 arguments were given; the kernel takes 2");
    let mut wrong = HostTensor::zeros(DType::F32, &[2]);
    assert_eq!(
        message(&mut [Arg::Tensor(&mut wrong), Arg::Scalar(Scalar::F32(1.0))]),
        "argument 0 is a tensor of rank 1 and dtype f32; expected a tensor of rank 2 and dtype f16"
    );
    assert_eq!(
        message(&mut [Arg::Tensor(&mut right), Arg::Scalar(Scalar::Bool(true))]),
        "argument 1 is a scalar of dtype bool; expected a scalar of dtype f32"
    );
    right.strides[0] = 100;
    assert_eq!(
        message(&mut [Arg::Tensor(&mut right), Arg::Scalar(Scalar::F32(1.0))]),
        "argument 0 has 8 bytes; its shape and strides need 204"
    );
}

#[test]
fn a_division_by_zero_names_its_line() {
    let text = "func.func @f(%v: !tile.view<1 : i64, i32>, %n: index) {
        %q = arith.divui %n, %n : index loc(\"k.rs\":7:3)
        %z = arith.constant dense<1> : tensor<4xi32>
        \"tile.store\"(%v, %q, %z) : (!tile.view<1 : i64, i32>, index, tensor<4xi32>) -> ()
        return
    }";
    let mut v = HostTensor::zeros(DType::I32, &[4]);
    let mut run = |n| run_text(text, &mut [Arg::Tensor(&mut v), Arg::Scalar(Scalar::Index(n))], [1, 1, 1]);
    assert_eq!(run(0).unwrap_err().to_string(), "k.rs:7:3: division by zero");
    assert_eq!(run(3), Ok(()));
}

/// Runs a function of `%x: tensor<8xf32>` (the input) whose result is stored over it.
fn run_on_8(body: &str, input: [f64; 8]) -> Vec<f64> {
    let text = format!(
        "func.func @f(%v: !tile.view<1 : i64, f32>) {{
           %c0 = arith.constant 0 : index
           %x = \"tile.load\"(%v, %c0) : (!tile.view<1 : i64, f32>, index) -> tensor<8xf32>
           {body}
           \"tile.store\"(%v, %c0, %y) : (!tile.view<1 : i64, f32>, index, tensor<8xf32>) -> ()
           return
         }}"
    );
    let mut v = HostTensor::from_f64(DType::F32, &[8], &input);
    run_text(&text, &mut [Arg::Tensor(&mut v)], [1, 1, 1]).unwrap();
    v.to_f64()
}

#[test]
fn conversions_round_and_saturate() {
    let input = [0.1, -2.5, 1e9, f64::NAN, f64::INFINITY, -f64::INFINITY, 3.5, -0.3];
    let through = |ty: &str, to: &str, back: &str| {
        let body = format!(
            "%i = {to} : (tensor<8xf32>) -> tensor<8x{ty}> %y = {back} : (tensor<8x{ty}>) -> tensor<8xf32>"
        );
        run_on_8(&body, input)
    };
    let ints = through("i32", "\"tile.cast\"(%x)", "\"arith.sitofp\"(%i)");
    assert_eq!(ints, [0.0, -2.0, 1e9, 0.0, 2147483648.0, -2147483648.0, 3.0, 0.0]);
    let f8 = through("f8E4M3FN", "\"tile.cast\"(%x)", "\"tile.cast\"(%i)");
    assert!(f8[3].is_nan());
    assert_eq!((&f8[..3], &f8[4..]), (&[0.1015625, -2.5, 448.0][..], &[448.0, -448.0, 3.5, -0.3125][..]));
    let f4 = through("f4E2M1FN", "\"tile.cast\"(%x)", "\"tile.cast\"(%i)");
    assert_eq!(f4, [0.0, -2.0, 6.0, 6.0, 6.0, -6.0, 4.0, -0.5]);
    let bf16 = through("bf16", "\"arith.truncf\"(%x)", "\"arith.extf\"(%i)");
    assert_eq!((bf16[0], bf16[2]), (0.10009765625, 998244352.0));
}

#[test]
fn extrema_propagate_nan_and_order_zeros() {
    let input = [0.0, -0.0, 1.0, f64::NAN, 2.0, -3.0, 5.0, 4.0];
    let reversed = "%p = arith.constant dense<[7, 6, 5, 4, 3, 2, 1, 0]> : tensor<8xi32>
        %r = \"tile.gather\"(%v, %p) {operandSegmentSizes = array<i32: 1, 1, 0>}
           : (!tile.view<1 : i64, f32>, tensor<8xi32>) -> tensor<8xf32>";
    let max = run_on_8(&format!("{reversed} %y = arith.maximumf %x, %r : tensor<8xf32>"), input);
    assert!(max[3].is_nan() && max[4].is_nan());
    assert_eq!((&max[..3], &max[5..]), (&[4.0, 5.0, 1.0][..], &[1.0, 5.0, 4.0][..]));
    let reduce =
        "%m = \"tile.reduce\"(%x) {axis = 0 : i64, kind = \"min\"} : (tensor<8xf32>) -> tensor<1xf32>
        %y = \"tile.broadcast\"(%m) : (tensor<1xf32>) -> tensor<8xf32>";
    assert!(run_on_8(reduce, input)[0].is_nan());
    let zeros = run_on_8(reduce, [0.0, -0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    assert!(zeros[0] == 0.0 && zeros[0].is_sign_negative());
}

/// Blocks and elements outside a strided tensor read as zero and are not written.
#[test]
fn edges_of_strided_tensors() {
    for dtype in
        [DType::F32, DType::F16, DType::BF16, DType::I32, DType::F8E4M3FN, DType::F4E2M1FN, DType::Bool]
    {
        let element = if dtype == DType::Bool { "i1" } else { dtype.name() };
        let text = format!(
            "func.func @copy(%a: !tile.view<2 : i64, {element}>, %b: !tile.view<2 : i64, {element}>) {{
               %i = \"tile.program_id\"() {{axis = 0 : i64}} : () -> index
               %j = \"tile.program_id\"() {{axis = 1 : i64}} : () -> index
               %x = \"tile.load\"(%a, %i, %j) : (!tile.view<2 : i64, {element}>, index, index) -> tensor<2x4x{element}>
               \"tile.store\"(%b, %i, %j, %x) : (!tile.view<2 : i64, {element}>, index, index, tensor<2x4x{element}>) -> ()
               return
             }}"
        );
        let values: Vec<f64> = (0..5 * 7).map(|i| f64::from(i % 2)).collect();
        let mut a = HostTensor::from_f64(dtype, &[5, 7], &values);
        // The last column and row are left out by the shape, not by the memory.
        a.shape = vec![4, 6];
        let mut b = HostTensor::zeros(dtype, &[3, 5]);
        run_text(&text, &mut [Arg::Tensor(&mut a), Arg::Tensor(&mut b)], [2, 2, 1]).unwrap();
        let expected: Vec<f64> = (0..15).map(|n| values[n / 5 * 7 + n % 5]).collect();
        assert_eq!(b.to_f64(), expected, "{dtype}");
    }
}
