//! Plain columns, as kubectl writes them: no lines, so that they can be cut and sorted.

/// Rows below a heading, each column as wide as its longest cell.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let heading = heading.map(str::to_owned);
    let all = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A name and a value on each line, the values below each other.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let line = |(name, value): &(&str, String)| format!("{:<width$} {value}", format!("{name}:"), width = width + 1);
    pairs.iter().flat_map(|pair| [line(pair), "\n".to_owned()]).collect()
}

/// Items separated by commas, or a dash.
pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(AsRef::as_ref).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell_and_lines_end_with_their_text() {
        let rows = [["a".to_owned(), "é".to_owned()], ["longer".to_owned(), "x".to_owned()]];
        assert_eq!(table(["N", "VALUE"], &rows), "N        VALUE\na        é\nlonger   x\n");
    }

    #[test]
    fn values_stand_below_each_other() {
        assert_eq!(pairs(&[("A", "1".to_owned()), ("Long", "2".to_owned())]), "A:    1\nLong: 2\n");
    }

    #[test]
    fn an_empty_list_is_a_dash() {
        assert_eq!((list::<&str>(&[]).as_str(), list(&["a", "b"]).as_str()), ("-", "a, b"));
    }
}
