//! Code in the driver: loading it, and unloading it when nothing runs it any more.

use super::{Gpu, driver_error};
use crate::error::{DeviceError, LaunchError};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, cudaError_enum as code};
use std::ffi::{CString, c_void};

/// A loaded module.
pub(super) struct Module {
    gpu: &'static Gpu,
    raw: sys::CUmodule,
}

// SAFETY: the driver lets every thread use its handles.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// Code as the driver takes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Image<'a> {
    /// Text, which the driver assembles; of this PTX version.
    Ptx(&'a str, (u32, u32)),
    /// Assembled code.
    Cubin(&'a [u8]),
}

impl Module {
    /// Loads the code of a kernel.
    pub fn load(gpu: &'static Gpu, kernel: &'static str, image: Image<'_>) -> Result<Module, LaunchError> {
        use sys::CUjit_option_enum::{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
        let text;
        let (data, ptx_version): (*const c_void, _) = match image {
            Image::Ptx(ptx, version) => {
                text = CString::new(ptx).expect("PTX is text");
                (text.as_ptr().cast(), version)
            }
            Image::Cubin(cubin) => (cubin.as_ptr().cast(), (0, 0)),
        };
        let mut log = vec![0u8; 4096];
        let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len() - 1)];
        let mut raw = std::ptr::null_mut();
        gpu.call("making the device current", || Ok(()))?;
        // SAFETY: image and log outlive the call; the log's last byte stays zero.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(&mut raw, data, 2, options.as_mut_ptr(), values.as_mut_ptr()).result()
        };
        match loaded {
            Ok(()) => Ok(Module { gpu, raw }),
            Err(DriverError(code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)) => {
                Err(DeviceError::DriverTooOld { index: gpu.index(), ptx_version }.into())
            }
            Err(DriverError(code::CUDA_ERROR_INVALID_PTX)) => {
                let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
                Err(LaunchError::RefusedPtx { kernel, log })
            }
            Err(DriverError(code::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let bytes = match image {
                    Image::Ptx(ptx, _) => ptx.len(),
                    Image::Cubin(cubin) => cubin.len(),
                };
                Err(DeviceError::OutOfMemory { index: gpu.index(), bytes }.into())
            }
            Err(error) => Err(driver_error(gpu.index(), "loading a kernel", error)),
        }
    }

    /// A kernel of the module that a launch gives `smem_bytes` of shared memory.
    pub fn function(&self, entry: &str, smem_bytes: usize) -> Result<sys::CUfunction, LaunchError> {
        let entry = CString::new(entry).expect("a Rust name holds no zero");
        let smem = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        self.gpu.call("finding a kernel in its module", || {
            // SAFETY: the module is loaded as long as this value lives.
            let function = unsafe { result::module::get_function(self.raw, entry) }?;
            // SAFETY: the function is of that module.
            unsafe { result::function::set_function_attribute(function, smem, smem_bytes as i32) }?;
            Ok(function)
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // A kernel of it may still run: nobody notes which streams a kernel was launched in. Errors mean that the
        // device is lost, and its modules with it.
        let _ = self.gpu.synchronize();
        // SAFETY: nothing runs the module's code, and whoever could launch it kept it alive.
        let _ = self.gpu.call("unloading a kernel", || unsafe { result::module::unload(self.raw) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use std::io::Write;

    /// The first GPU; where there is none, says on the standard error that `test` is skipped.
    fn gpu(test: &str) -> Option<&'static Gpu> {
        let found = Device::cuda(0);
        if let Err(reason) = &found {
            // Not `eprintln`, which the harness captures.
            writeln!(std::io::stderr(), "SKIPPED {test}: {reason}").expect("standard error is writable");
        }
        found.ok().map(|device| Gpu::of(&device, "a test").expect("a GPU"))
    }

    fn ptx(gpu: &Gpu, version: &str, body: &str) -> String {
        format!(
            ".version {version}\n.target {}\n.address_size 64\n.visible .entry k() {{ {body} }}\n",
            gpu.target().name
        )
    }

    #[test]
    fn the_driver_says_what_is_wrong_with_code() {
        let Some(gpu) = gpu("the_driver_says_what_is_wrong_with_code") else { return };
        let load = |ptx: &str| Module::load(gpu, "k", Image::Ptx(ptx, (9, 0)));
        let good = load(&ptx(gpu, "9.0", "ret;")).unwrap();
        good.function("k", 1024).unwrap();
        let newer = load(&ptx(gpu, "99.0", "ret;")).map(drop).unwrap_err();
        assert_eq!(newer, DeviceError::DriverTooOld { index: 0, ptx_version: (9, 0) }.into());
        let wrong = load(&ptx(gpu, "9.0", "not.an.instruction;")).map(drop).unwrap_err();
        assert!(matches!(&wrong, LaunchError::RefusedPtx { kernel: "k", log } if !log.is_empty()), "{wrong}");
        let junk = Module::load(gpu, "k", Image::Cubin(&[0x7f; 256])).map(drop).unwrap_err();
        assert!(matches!(junk, LaunchError::Device(DeviceError::Driver { .. })), "{junk}");
        drop(good);
        load(&ptx(gpu, "9.0", "ret;")).unwrap();
    }

    #[test]
    fn a_module_goes_when_its_kernels_are_done() {
        let Some(gpu) = gpu("a_module_goes_when_its_kernels_are_done") else { return };
        // Waits for the clock, then writes.
        let text = format!(
            ".version 8.0\n.target {}\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
             .reg .b64 %a<4>; .reg .pred %q;\nld.param.u64 %a0, [p];\nmov.u64 %a1, %clock64;\n\
             L: mov.u64 %a2, %clock64; sub.s64 %a3, %a2, %a1; setp.lt.s64 %q, %a3, 20000000; @%q bra L;\n\
             mov.b64 %a3, 42; st.global.u64 [%a0], %a3; ret; }}\n",
            gpu.target().name
        );
        let stream = gpu.default_stream();
        let memory = super::super::Allocation::upload(gpu, &[0u64]).unwrap();
        let module = Module::load(gpu, "k", Image::Ptx(&text, (8, 0))).unwrap();
        let function = module.function("k", 0).unwrap();
        let mut address = memory.address();
        let mut params = [std::ptr::from_mut(&mut address).cast::<c_void>()];
        memory.acquire(stream, super::super::Access::Write).unwrap();
        // SAFETY: the kernel takes one address, of memory that is kept.
        let launch =
            || unsafe { result::launch_kernel(function, (1, 1, 1), (1, 1, 1), 0, stream.raw(), &mut params) };
        gpu.call("launching a kernel", launch).unwrap();
        drop(module);
        let mut out = [std::mem::MaybeUninit::<u64>::uninit()];
        // SAFETY: any bytes are a number.
        unsafe { memory.read(stream, 0, &mut out) }.unwrap();
        // SAFETY: the copy wrote it.
        assert_eq!(unsafe { out[0].assume_init() }, 42);
    }
}
