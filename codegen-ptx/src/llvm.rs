//! From a module of the LLVM dialect to PTX, in process.

use crate::target::Target;
use llvm_sys::core::{
    LLVMContextCreate, LLVMContextDispose, LLVMDisposeMemoryBuffer, LLVMDisposeMessage, LLVMDisposeModule,
    LLVMGetBufferSize, LLVMGetBufferStart, LLVMPrintModuleToString, LLVMSetDataLayout, LLVMSetTarget,
};
use llvm_sys::error::{LLVMDisposeErrorMessage, LLVMGetErrorMessage};
use llvm_sys::prelude::{LLVMContextRef, LLVMMemoryBufferRef, LLVMModuleRef};
use llvm_sys::target::{
    LLVMCopyStringRepOfTargetData, LLVMDisposeTargetData, LLVMInitializeNVPTXAsmPrinter,
    LLVMInitializeNVPTXTarget, LLVMInitializeNVPTXTargetInfo, LLVMInitializeNVPTXTargetMC,
};
use llvm_sys::target_machine::{
    LLVMCodeGenFileType, LLVMCodeGenOptLevel, LLVMCodeModel, LLVMCreateTargetDataLayout,
    LLVMCreateTargetMachine, LLVMDisposeTargetMachine, LLVMGetTargetFromTriple, LLVMRelocMode,
    LLVMTargetMachineEmitToMemoryBuffer, LLVMTargetMachineRef, LLVMTargetRef,
};
use llvm_sys::transforms::pass_builder::{
    LLVMCreatePassBuilderOptions, LLVMDisposePassBuilderOptions, LLVMRunPasses,
};
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::Once;

/// What NVPTX modules are for.
const TRIPLE: &CStr = c"nvptx64-nvidia-cuda";

/// The optimizations: addresses and masks are shared and folded, what loops repeat is hoisted; the unrolled
/// body is left as it was emitted.
const PASSES: &CStr = c"function(early-cse,simplifycfg,instcombine<no-verify-fixpoint;max-iterations=1>,loop-mssa(licm),early-cse),globaldce";

/// The LLVM that generates the code: major, minor and patch.
pub fn version() -> (u32, u32, u32) {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: it writes three integers.
    unsafe { llvm_sys::core::LLVMGetVersion(&mut major, &mut minor, &mut patch) };
    (major, minor, patch)
}

/// What LLVM refuses. Always a defect of this compiler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LlvmError {
    /// The module does not translate from MLIR.
    #[error("the generated module does not translate to LLVM IR")]
    Translate,
    /// LLVM was built without the NVPTX back end.
    #[error("LLVM has no NVPTX back end: {message}")]
    NoBackEnd {
        /// What LLVM says.
        message: String,
    },
    /// A pass failed.
    #[error("LLVM could not optimize the module: {message}")]
    Optimize {
        /// What LLVM says.
        message: String,
    },
    /// Instruction selection or printing failed.
    #[error("LLVM could not emit PTX: {message}")]
    Emit {
        /// What LLVM says.
        message: String,
    },
}

/// An LLVM module and its own context.
#[derive(Debug)]
pub struct LlvmModule {
    context: LLVMContextRef,
    module: LLVMModuleRef,
    machine: TargetMachine,
    _not_send: PhantomData<*mut ()>,
}

/// A target machine for one SM.
#[derive(Debug)]
struct TargetMachine(LLVMTargetMachineRef);

/// Takes over a message that LLVM allocated.
///
/// # Safety
/// `message` is null or a string of LLVM's that nobody else frees.
unsafe fn take_message(message: *mut c_char) -> String {
    if message.is_null() {
        return String::new();
    }
    // SAFETY: the caller hands over a valid string.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        LLVMDisposeMessage(message);
        text
    }
}

impl TargetMachine {
    fn new(target: &Target) -> Result<TargetMachine, LlvmError> {
        static INITIALIZE: Once = Once::new();
        // SAFETY: LLVM's registration functions, once in the process.
        INITIALIZE.call_once(|| unsafe {
            LLVMInitializeNVPTXTargetInfo();
            LLVMInitializeNVPTXTarget();
            LLVMInitializeNVPTXTargetMC();
            LLVMInitializeNVPTXAsmPrinter();
        });
        let cpu = CString::new(target.name).expect("a name without NUL");
        let features = CString::new(target.llvm_features()).expect("a name without NUL");
        let mut handle: LLVMTargetRef = null_mut();
        let mut message = null_mut();
        // SAFETY: all pointers are to live strings or out parameters.
        unsafe {
            if LLVMGetTargetFromTriple(TRIPLE.as_ptr(), &mut handle, &mut message) != 0 {
                return Err(LlvmError::NoBackEnd { message: take_message(message) });
            }
            let machine = LLVMCreateTargetMachine(
                handle,
                TRIPLE.as_ptr(),
                cpu.as_ptr(),
                features.as_ptr(),
                LLVMCodeGenOptLevel::LLVMCodeGenLevelDefault,
                LLVMRelocMode::LLVMRelocDefault,
                LLVMCodeModel::LLVMCodeModelDefault,
            );
            Ok(TargetMachine(machine))
        }
    }
}

impl Drop for TargetMachine {
    fn drop(&mut self) {
        // SAFETY: created by `new`, disposed of once.
        unsafe { LLVMDisposeTargetMachine(self.0) }
    }
}

impl LlvmModule {
    /// Translates a module of the LLVM and NVVM dialects.
    ///
    /// # Errors
    /// [`LlvmError::Translate`] when an operation is left that LLVM IR does not have.
    pub fn translate(module: &melior::ir::Module, target: &Target) -> Result<LlvmModule, LlvmError> {
        let machine = TargetMachine::new(target)?;
        // SAFETY: the context outlives the module; both are disposed of in `drop`.
        unsafe {
            let context = LLVMContextCreate();
            let raw = mlir_sys::mlirTranslateModuleToLLVMIR(module.as_operation().to_raw(), context.cast());
            if raw.is_null() {
                LLVMContextDispose(context);
                return Err(LlvmError::Translate);
            }
            let module: LLVMModuleRef = raw.cast();
            LLVMSetTarget(module, TRIPLE.as_ptr());
            let layout = LLVMCreateTargetDataLayout(machine.0);
            let text = LLVMCopyStringRepOfTargetData(layout);
            LLVMSetDataLayout(module, text);
            LLVMDisposeMessage(text);
            LLVMDisposeTargetData(layout);
            Ok(LlvmModule { context, module, machine, _not_send: PhantomData })
        }
    }

    /// Runs the optimization pipeline.
    ///
    /// # Errors
    /// [`LlvmError::Optimize`].
    pub fn optimize(&mut self) -> Result<(), LlvmError> {
        // SAFETY: module and machine are live; the options and the error are disposed of here.
        unsafe {
            let options = LLVMCreatePassBuilderOptions();
            let error = LLVMRunPasses(self.module, PASSES.as_ptr(), self.machine.0, options);
            LLVMDisposePassBuilderOptions(options);
            if error.is_null() {
                return Ok(());
            }
            let text = LLVMGetErrorMessage(error);
            let message = CStr::from_ptr(text).to_string_lossy().into_owned();
            LLVMDisposeErrorMessage(text);
            Err(LlvmError::Optimize { message })
        }
    }

    /// The module as LLVM assembly.
    pub fn to_text(&self) -> String {
        // SAFETY: the module is live, the string is handed over.
        unsafe { take_message(LLVMPrintModuleToString(self.module)) }
    }

    /// Emits PTX. The module is spent: code generation rewrites it.
    ///
    /// # Errors
    /// [`LlvmError::Emit`].
    pub fn emit_ptx(self) -> Result<String, LlvmError> {
        let mut buffer: LLVMMemoryBufferRef = null_mut();
        let mut message = null_mut();
        // SAFETY: module and machine are live; the buffer is read before it is disposed of.
        unsafe {
            let failed = LLVMTargetMachineEmitToMemoryBuffer(
                self.machine.0,
                self.module,
                LLVMCodeGenFileType::LLVMAssemblyFile,
                &mut message,
                &mut buffer,
            );
            if failed != 0 {
                return Err(LlvmError::Emit { message: take_message(message) });
            }
            let start = LLVMGetBufferStart(buffer).cast::<u8>();
            let bytes = std::slice::from_raw_parts(start, LLVMGetBufferSize(buffer));
            let text = String::from_utf8_lossy(bytes).into_owned();
            LLVMDisposeMemoryBuffer(buffer);
            Ok(text)
        }
    }
}

impl Drop for LlvmModule {
    fn drop(&mut self) {
        // SAFETY: both were created by `translate`; the module goes before its context.
        unsafe {
            LLVMDisposeModule(self.module);
            LLVMContextDispose(self.context);
        }
    }
}
