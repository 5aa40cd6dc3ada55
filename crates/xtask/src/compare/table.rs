//! The comparison as a Markdown table.

use crate::figures::{Compared, Figures, compare, median};

/// What was measured in turn.
pub struct Round {
    /// Our figures and the peer's.
    pub figures: (Figures, Figures),
    /// Bytes a second of a plain read.
    pub stream: f64,
}

/// One model under one workload.
pub struct Row {
    /// The model, and what is special about the workload.
    pub name: String,
    /// Weights read for each token that is generated.
    pub bytes_per_token: f64,
    /// In the order of time.
    pub rounds: Vec<Round>,
}

const HEAD: &str = "\
| model | prefill, ours | llama.cpp | ratio | decode, ours | llama.cpp | ratio | read stream | decode's share |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
";

/// Renders the rows; figures are medians over rounds.
pub fn render(rows: &[Row]) -> String {
    let mut text = HEAD.to_owned();
    for row in rows {
        let figures: Vec<_> = row.rounds.iter().map(|round| round.figures).collect();
        let mut cells = vec![row.name.clone()];
        cells.extend(compared(compare(&figures, |f| f.prefill)));
        cells.extend(compared(compare(&figures, |f| f.decode)));
        let stream = median(row.rounds.iter().map(|round| round.stream / 1e9));
        cells.push(cell(stream, |rate| format!("{rate:.1} GB/s")));
        cells.push(cell(share(row), |share| format!("{:.0} %", share * 100.0)));
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

/// The part of the plain read's rate at which our decoding reads the weights.
fn share(row: &Row) -> Option<f64> {
    let of_round = |round: &Round| Some(row.bytes_per_token * round.figures.0.decode? / round.stream);
    median(row.rounds.iter().filter_map(of_round))
}

fn compared(compared: Option<Compared>) -> [String; 3] {
    [
        cell(compared.map(|c| c.first), speed),
        cell(compared.map(|c| c.second), speed),
        cell(compared.map(|c| c.ratio), |ratio| format!("{ratio:.2}")),
    ]
}

/// Three digits, or more where they are before the point.
pub fn speed(tokens_a_second: f64) -> String {
    let places = if tokens_a_second < 99.95 { 1 } else { 0 };
    format!("{tokens_a_second:.places$}")
}

fn cell(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ours: (f64, f64), peer: (f64, f64), stream: f64) -> Round {
        let figures = |(prefill, decode)| Figures { prefill: Some(prefill), decode: Some(decode) };
        Round { figures: (figures(ours), figures(peer)), stream }
    }

    fn line(row: Row) -> String {
        render(&[row]).lines().nth(2).expect("a row follows the head").to_owned()
    }

    #[test]
    fn a_row() {
        let rounds = vec![
            round((600.0, 90.0), (400.0, 100.0), 20e9),
            round((700.0, 99.5), (500.0, 100.0), 25e9),
            round((500.0, 110.0), (250.0, 100.0), 22e9),
        ];
        let row = Row { name: "m".to_owned(), bytes_per_token: 1e8, rounds };
        // Shares of the rounds: 45, 39.8 and 50 %.
        assert_eq!(line(row), "| m | 600 | 400 | 1.50 | 99.5 | 100 | 0.99 | 22.0 GB/s | 45 % |");
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let decode = |rate| Figures { prefill: None, decode: Some(rate) };
        let rounds = vec![Round { figures: (decode(1234.0), decode(617.0)), stream: 20e9 }];
        let row = Row { name: "m".to_owned(), bytes_per_token: 1e7, rounds };
        assert_eq!(line(row), "| m | – | – | – | 1234 | 617 | 2.00 | 20.0 GB/s | 62 % |");
    }

    #[test]
    fn every_line_has_as_many_cells_as_the_head() {
        let text = render(&[Row { name: "m".to_owned(), bytes_per_token: 1.0, rounds: Vec::new() }]);
        let bars: Vec<usize> = text.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(bars, [10, 10, 10]);
    }
}
