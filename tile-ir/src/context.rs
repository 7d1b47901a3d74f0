//! MLIR contexts that know the tile dialect.

use melior::Context;
use melior::dialect::DialectHandle;
use melior::ir::Location;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// The definition of the tile dialect.
const TILE_IRDL: &str = include_str!("tile.irdl.mlir");

/// A message of MLIR's own: why a text does not parse or an operation is malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// File, line and column the message is about, where it has one.
    pub place: Option<Place>,
    /// What MLIR says.
    pub text: String,
}

/// A place in a source file; lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The file, as the compiler names it.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column.
    pub col: usize,
}

impl Place {
    /// The place a location names, through call sites and fused locations; none for an unknown location.
    pub fn of(location: Location) -> Option<Place> {
        if location.is_file_line_col_range() {
            let name = location.file_line_col_range_filename();
            return Some(Place {
                file: name.as_string_ref().as_str().unwrap_or_default().to_owned(),
                line: location.file_line_col_range_start_line(),
                col: location.file_line_col_range_start_column(),
            });
        }
        if location.is_call_site() {
            return Place::of(location.call_site_callee());
        }
        if location.is_fused() {
            return (0..location.fused_num_locations()).find_map(|i| Place::of(location.fused_location(i)));
        }
        if location.is_name() {
            return Place::of(location.name_child_location());
        }
        None
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.col)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// An MLIR context with the tile dialect and the builtin dialects it stands on, that keeps MLIR's messages
/// instead of printing them.
///
/// Single-threaded; [`with_context`] keeps one a thread.
#[derive(Debug)]
pub struct TileContext {
    messages: Rc<RefCell<Vec<Message>>>,
    mlir: Context,
}

impl TileContext {
    /// A context with `tile`, `func`, `scf`, `arith`, `math` and `tensor`.
    pub fn new() -> TileContext {
        TileContext::with_dialects(&[], &[])
    }

    /// As [`TileContext::new`], with further dialects: builtin ones by handle, others by the text of their
    /// IRDL definition.
    ///
    /// # Panics
    /// When a definition does not load, which is a mistake in its text.
    pub fn with_dialects(handles: &[DialectHandle], definitions: &[&str]) -> TileContext {
        let mlir = Context::new_with_threading(false);
        let messages = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&messages);
        mlir.attach_diagnostic_handler(move |diagnostic| {
            let mut text = diagnostic.to_string();
            for note in (0..diagnostic.note_count()).filter_map(|i| diagnostic.note(i).ok()) {
                text += &format!("\n  note: {note}");
            }
            sink.borrow_mut().push(Message { place: Place::of(diagnostic.location()), text });
            true
        });
        // SAFETY: the functions return handles of dialects that are linked in.
        let (irdl, math) = unsafe {
            (
                DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__irdl__()),
                DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__math__()),
            )
        };
        let (func, scf, arith) = (DialectHandle::func(), DialectHandle::scf(), DialectHandle::arith());
        for handle in [irdl, func, scf, arith, math, DialectHandle::tensor()].iter().chain(handles) {
            handle.load_dialect(&mlir);
        }
        let context = TileContext { messages, mlir };
        for text in [TILE_IRDL].iter().chain(definitions) {
            let loaded = melior::ir::Module::parse(&context.mlir, text)
                .is_some_and(|module| melior::utility::load_irdl_dialects(&module));
            assert!(loaded, "dialect definition does not load: {:?}", context.take_messages());
        }
        context
    }

    /// The messages since the last call.
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut self.messages.borrow_mut())
    }

    /// The MLIR context.
    pub fn mlir(&self) -> &Context {
        &self.mlir
    }
}

impl Default for TileContext {
    fn default() -> Self {
        TileContext::new()
    }
}

impl Deref for TileContext {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.mlir
    }
}

thread_local! {
    static CONTEXT: TileContext = TileContext::new();
}

/// Runs `f` with this thread's context, made on first use.
pub fn with_context<R>(f: impl FnOnce(&TileContext) -> R) -> R {
    CONTEXT.with(f)
}
