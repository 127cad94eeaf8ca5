//! Tables as people read them: columns as wide as their widest cell, lines as wide as the terminal. Pure.

use crate::text::cut;

/// A table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    heads: Vec<&'static str>,
    /// Of the columns whose cells stand at their right end.
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With heads; those that begin with `>` are of numbers, which stand at the right.
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        let plain = heads.iter().map(|head| head.trim_start_matches('>'));
        Self {
            right: heads.iter().map(|head| head.starts_with('>')).collect(),
            heads: plain.collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a line.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Its text; lines that are too wide are cut.
    pub(crate) fn text(&self, width: usize) -> String {
        let mut widths: Vec<usize> = self.heads.iter().map(|head| head.chars().count()).collect();
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = cell.chars().count().max(*widest);
            }
        }
        let heads = self.heads.iter().map(|head| (*head).to_owned()).collect();
        let lines = std::iter::once(&heads).chain(&self.rows);
        let lines = lines.map(|row| cut(&self.line(row, &widths), width));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).zip(&self.right);
        let cells: Vec<String> = cells
            .map(|((cell, width), right)| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_no_wider_than_told() {
        let mut table = Table::new(&["NAME", ">N", "TEXT"]);
        table.row(vec!["a".into(), "10".into(), "x".repeat(90)]);
        table.row(vec!["longer".into(), "9".into(), "y".into()]);
        let text = table.text(40);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "NAME     N  TEXT");
        assert!(lines[1].starts_with("a       10  xxx") && lines[1].ends_with(".."));
        assert_eq!(lines[2], "longer   9  y");
        assert!(lines.iter().all(|line| line.chars().count() <= 40));
    }
}
