//! Gives every tile a layout and turns the tile dialect into the gpu level.
//!
//! Input: a module of the tile dialect. Output: the same kernel in which every tile's type carries a layout, and
//! operands of products that are loads go through shared memory, each load waiting for its own copy. Invariant:
//! a value is converted where it is defined, once for each layout that its uses ask for; so what is invariant in
//! a loop is converted outside of it.
//!
//! Layouts come from anchors. `products` chooses how warps split each product; `homes` spreads the
//! accumulators' layouts, and where there are none those of coalesced loads, forward through the kernel;
//! `demands` walks backward from uses and decides in which layouts each operation is emitted: what costs
//! nothing (constants, iotas, broadcasts) in every layout asked for, a load in the one layout asked for, anything
//! else at home; `emit` writes the new module.
//!
//! Products of f32 go to `wgmma` only if tensor maps round their operands on the way, which is decided by the pass
//! that makes copies bulk copies. So the module is written with them, that pass is asked, and if it would leave an
//! operand as it is, the module is written again without.

mod demands;
mod emit;
mod graph;
mod homes;
mod products;

use super::{Pass, PassContext, PassError, warp_specialize};
use crate::layout::LinearLayout;
use std::collections::HashMap;
use std::rc::Rc;
use tile_ir::Module;

/// The pass this is, for remarks.
const PASS: Pass = Pass::AssignLayouts;

/// Runs the pass.
pub(super) fn run<'c>(module: &Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    if !cx.num_warps.is_power_of_two() {
        return Err(PassError::NumWarps(cx.num_warps));
    }
    let graph = graph::Graph::of(module)?;
    if graph.views.len() != cx.facts.len() {
        return Err(PassError::Facts { found: cx.facts.len(), expected: graph.views.len() });
    }
    if !cx.switches.tf32_wgmma {
        return assign(module, &graph, cx, Err("tf32_wgmma is 0"));
    }
    let before = cx.remarks.len();
    let assigned = assign(module, &graph, cx, Ok(()))?;
    let Err(why) = warp_specialize::rounds_operands(&assigned, cx) else { return Ok(assigned) };
    cx.remarks.truncate(before);
    assign(module, &graph, cx, Err(&why))
}

/// Whether operands of f32 are rounded to tf32 on their way to shared memory, or why not.
type Rounding<'a> = Result<(), &'a str>;

/// Assigns layouts and writes the module.
fn assign<'c>(
    module: &Module<'c>,
    graph: &graph::Graph<'c>,
    cx: &mut PassContext,
    rounding: Rounding,
) -> Result<Module<'c>, PassError> {
    let mut layouts = Layouts::default();
    let products = products::plan(graph, cx, &mut layouts, rounding)?;
    let homes = homes::spread(graph, &products, cx, &mut layouts);
    let demands = demands::collect(graph, &products, &homes, cx, &mut layouts);
    emit::emit(module, graph, &products, &demands, cx, &mut layouts)
}

/// A layout by number; equal layouts have equal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LayoutId(usize);

/// The layouts in use.
#[derive(Default)]
struct Layouts {
    list: Vec<Rc<LinearLayout>>,
    ids: HashMap<Rc<LinearLayout>, LayoutId>,
}

impl Layouts {
    /// The number of a layout.
    fn id(&mut self, layout: LinearLayout) -> LayoutId {
        if let Some(id) = self.ids.get(&layout) {
            return *id;
        }
        let (id, layout) = (LayoutId(self.list.len()), Rc::new(layout));
        self.list.push(Rc::clone(&layout));
        self.ids.insert(layout, id);
        id
    }

    /// The layout of a number.
    fn get(&self, id: LayoutId) -> Rc<LinearLayout> {
        Rc::clone(&self.list[id.0])
    }
}
