//! Every kernel's PTX for every target, executed on an emulated GPU, against its f64 reference.

use crate::support::{config, problem, run_on};
use codegen_ptx::Target;
use tile::Device;
use tile::contract::{Contract, random_inputs, relative_error};
use tilegym_kernels::MatmulContract;

fn agree(contract: &dyn Contract, sizes: &[(&str, i64)], consts: &[(&str, i64)]) {
    for &dtype in contract.dtypes() {
        let problem = problem(contract, dtype, sizes);
        let config = config(contract, &problem, consts);
        let inputs = random_inputs(contract, &problem, 11);
        let widened: Vec<_> = inputs.iter().map(|t| t.to_f64()).collect();
        let reference = contract.oracle(&problem, &widened);
        for target in Target::all() {
            let start = std::time::Instant::now();
            let found = run_on(&Device::emulated(target, 1), contract, &problem, &config, &inputs);
            let tolerance = contract.tolerance(dtype, true);
            for (found, reference) in found.iter().zip(&reference) {
                let error = relative_error(found, reference);
                println!("{} {dtype} {target}: error {error:.2e} {:?}", contract.kernel().name, start.elapsed(), target=target.name);
                assert!(error <= tolerance, "{problem:?} {config:?}: error {error:.2e} > {tolerance:.0e}");
            }
        }
    }
}

#[test]
fn matmul() {
    agree(&MatmulContract, &[("m", 257), ("n", 129), ("k", 65)], &[]);
    agree(&MatmulContract, &[("m", 256), ("n", 128), ("k", 128)], &[]);
}
