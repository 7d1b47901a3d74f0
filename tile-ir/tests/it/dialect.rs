//! Every operation can be made, printed, read back and taken apart.

use melior::ir::Location;
use tile_ir::types::{args_of, nested_ops, ops_of, type_of, view_of};
use tile_ir::{Module, ParseError, TileContext, TileOp, with_context};
use tile_lang::DType;

const EVERY_OP: &str = r#"
func.func @every(%v: !tile.view<2 : i64, bf16> {tile.align_bytes = 16 : i64, tile.contiguous},
                 %w: !tile.view<1 : i64, i1>, %s: f32, %k: !tile.view<1 : i64, i32>) {
  %0 = "tile.program_id"() {axis = 0 : i64} : () -> index
  %n = "tile.num_programs"() {axis = 2 : i64} : () -> index
  %d = "tile.dim"(%v) {axis = 1 : i64} : (!tile.view<2 : i64, bf16>) -> index
  %1 = "tile.load"(%v, %0, %0) : (!tile.view<2 : i64, bf16>, index, index) -> tensor<4x4xbf16>
  %2 = "tile.transpose"(%1) {perm = array<i64: 1, 0>} : (tensor<4x4xbf16>) -> tensor<4x4xbf16>
  %3 = "tile.reduce"(%1) {kind = "sum", axis = 1 : i64} : (tensor<4x4xbf16>) -> tensor<4x1xbf16>
  %4 = "tile.broadcast"(%3) : (tensor<4x1xbf16>) -> tensor<4x4xbf16>
  %5 = "tile.reshape"(%3) : (tensor<4x1xbf16>) -> tensor<2x2xbf16>
  %c = "tile.cast"(%s) : (f32) -> i32
  "tile.store"(%v, %0, %0, %2) : (!tile.view<2 : i64, bf16>, index, index, tensor<4x4xbf16>) -> ()
  %acc = arith.constant dense<0.0> : tensor<4x4xf32>
  %m = "tile.mma"(%1, %2, %acc) : (tensor<4x4xbf16>, tensor<4x4xbf16>, tensor<4x4xf32>) -> tensor<4x4xf32>
  %i = "tile.iota"() : () -> tensor<4xi32>
  %g = "tile.gather"(%w, %i) {operandSegmentSizes = array<i32: 1, 1, 0>}
     : (!tile.view<1 : i64, i1>, tensor<4xi32>) -> tensor<4xi1>
  "tile.scatter"(%w, %i, %g, %g) {operandSegmentSizes = array<i32: 1, 1, 1, 1>}
     : (!tile.view<1 : i64, i1>, tensor<4xi32>, tensor<4xi1>, tensor<4xi1>) -> ()
  %q = "tile.splat"(%s) : (f32) -> tensor<4x4xf32>
  %l = "tile.arrive_last"(%k, %0, %n) : (!tile.view<1 : i64, i32>, index, index) -> i1
  return
}
"#;

#[test]
fn every_op_round_trips() {
    with_context(|c| {
        let module = Module::parse(c, EVERY_OP).unwrap();
        let text = module.to_text();
        assert_eq!(Module::parse(c, &text).unwrap().to_text(), text);
        let generic = module.to_generic_text();
        assert_eq!(Module::parse(c, &generic).unwrap().to_text(), text);
        let located = module.to_text_with_locations();
        assert_eq!(Module::parse(c, &located).unwrap().to_text_with_locations(), located);
        assert_eq!(module.clone().to_text(), text);
        assert_eq!(module.name(), "every");
        let decoded = nested_ops(module.function()).into_iter().filter_map(TileOp::of).count();
        assert_eq!(decoded, 16);
    });
}

/// What the builder makes has the text that a person would write.
#[test]
fn builder_makes_every_op() {
    with_context(|c| {
        let module = Module::parse(c, EVERY_OP).unwrap();
        let built = Module::parse(c, EVERY_OP).unwrap();
        let last = ops_of(built.entry()).last().unwrap();
        for op in ops_of(built.entry()).collect::<Vec<_>>().into_iter().rev().filter(|op| *op != last) {
            tile_ir::types::erase(op);
        }
        let args = args_of(built.entry());
        let (v, w, s, k) = (args[0], args[1], args[2], args[3]);
        let b = tile_ir::Builder::before(c, last);
        let id = b.program_id(0);
        let n = b.num_programs(2);
        b.dim(v, 1);
        let t = b.load(v, &[id, id], &[4, 4]);
        let tt = b.transpose(t, &[1, 0]);
        let r = b.reduce(t, 1, tile_ir::ops::ReduceKind::Sum);
        b.broadcast(r, &[4, 4]);
        b.reshape(r, &[2, 2]);
        b.cast(s, DType::I32);
        b.store(v, &[id, id], tt);
        let acc = b.splat_const(DType::F32, &[4, 4], 0.0);
        b.mma(t, tt, acc);
        let i = b.iota(4);
        let g = b.gather(w, &[i], None);
        b.scatter(w, &[i], g, Some(g));
        b.splat(s, &[4, 4]);
        b.arrive_last(k, &[id], n);
        assert_eq!(built.to_text(), module.to_text());
    });
}

#[test]
fn views_say_rank_and_dtype() {
    with_context(|c| {
        for dtype in DType::ALL.into_iter().filter(|d| !matches!(d, DType::I64 | DType::Index)) {
            let ty = tile_ir::types::view_type(c, 3, dtype);
            assert_eq!(view_of(ty), Some(tile_ir::types::View { rank: 3, dtype }));
        }
        let module = Module::parse(c, EVERY_OP).unwrap();
        assert_eq!(view_of(type_of(args_of(module.entry())[2])), None);
    });
}

#[test]
fn unknown_ops_and_types_do_not_parse() {
    with_context(|c| {
        for text in [
            "func.func @f() { \"tile.frobnicate\"() : () -> () return }",
            "func.func @f(%v: !tile.view<2 : i64, f64>) { return }",
            "func.func @f() { %0 = \"tile.program_id\"() : () -> index return }",
            "func.func @f() {",
        ] {
            let error = Module::parse(c, text).unwrap_err();
            assert!(matches!(&error, ParseError::Syntax(m) if !m.is_empty()), "{text}: {error}");
        }
        assert_eq!(Module::parse(c, "").unwrap_err(), ParseError::Functions(0));
    });
}

#[test]
fn contexts_are_cheap() {
    drop(TileContext::new());
    let start = std::time::Instant::now();
    for _ in 0..10 {
        let context = TileContext::new();
        assert!(context.is_registered_operation("tile.mma"));
        let place = tile_ir::context::Place::of(Location::new(&context, "k.rs", 3, 7)).unwrap();
        assert_eq!(place.to_string(), "k.rs:3:7");
    }
    let each_ms = start.elapsed().as_secs_f64() * 100.0;
    assert!(each_ms < 20.0, "{each_ms} ms a context");
    println!("{each_ms:.2} ms a context");
}
