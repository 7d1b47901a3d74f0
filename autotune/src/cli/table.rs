//! Tables on the terminal.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

/// A table with a header; the columns named `numeric` are right-aligned.
pub fn table(header: &[&str], rows: Vec<Vec<String>>, numeric: std::ops::Range<usize>) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if !table.is_tty() {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new));
    }
    for index in numeric {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// A time with three digits.
pub fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        us => format!("{us:.1} us"),
    }
}

/// A number of bytes.
pub fn bytes(count: usize) -> String {
    match count {
        c if c >= 1 << 20 => format!("{:.1} MiB", c as f64 / f64::from(1 << 20)),
        c if c >= 1 << 10 => format!("{:.1} KiB", c as f64 / f64::from(1 << 10)),
        c => format!("{c} B"),
    }
}
