//! The rows that others have figures of, as a picture: a line for each row, a dot for each hypervisor.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::machines::Measured;
use super::rows::{Description, Rows};

/// Pixels.
const WIDTH: u32 = 1200;
const LINE: u32 = 26;
const TITLES: u32 = 330;
const DOT: i32 = 5;

/// A hypervisor's dots: its name, and the row and ticks of each.
type Dots = (String, Vec<(i32, f64)>);

/// Writes the picture as SVG; where there is nothing to compare, none.
pub(super) fn write(path: &Path, rows: &Rows, measured: &BTreeMap<String, Measured>) -> Result<()> {
    let compared: Vec<&Description> =
        rows.descriptions.iter().filter(|row| !row.peers.is_empty() && measured.contains_key(&row.name)).collect();
    let Some(dots) = dots(rows, &compared, measured) else { return Ok(()) };
    draw(path, &compared, &dots).with_context(|| format!("cannot write {}", path.display()))
}

fn dots(rows: &Rows, compared: &[&Description], measured: &BTreeMap<String, Measured>) -> Option<Vec<Dots>> {
    let series = |name: &str, ticks: &dyn Fn(&Description) -> Option<u64>| -> Dots {
        let dot = |(row, description)| Some((row, ticks(description)? as f64));
        (name.to_owned(), (0..).zip(compared.iter().copied()).filter_map(dot).collect())
    };
    let own = series("Lamina", &|row| measured.get(&row.name).map(|measured| measured.figures.p50));
    let goals = series("goal", &|row| row.goal);
    let peers = rows.peers.iter().map(|peer| series(&peer.title, &|row| row.peers.get(&peer.name).copied()));
    (!compared.is_empty()).then(|| peers.chain([goals, own]).collect())
}

fn draw(path: &Path, compared: &[&Description], dots: &[Dots]) -> Result<()> {
    let lines = u32::try_from(compared.len())?;
    let area = SVGBackend::new(path, (WIDTH, LINE * (lines + 5))).into_drawing_area();
    area.fill(&WHITE)?;
    // The first row is on top.
    let rows = i32::try_from(lines)?..-1;
    let most = dots.iter().flat_map(|(_, dots)| dots).map(|dot| dot.1).fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(TITLES)
        .build_cartesian_2d((1.0..most * 10.0).log_scale(), rows)?;
    let title = |row: &i32| {
        let description = usize::try_from(*row).ok().and_then(|row| compared.get(row));
        description.map_or(String::new(), |description| description.title.clone())
    };
    chart
        .configure_mesh()
        .y_labels(compared.len() + 2)
        .y_label_formatter(&title)
        .x_label_formatter(&|ticks| format!("{ticks:.0}"))
        .x_desc("TSC ticks, median")
        .draw()?;
    for (index, (name, dots)) in dots.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        chart
            .draw_series(dots.iter().map(|&(row, ticks)| Circle::new((ticks, row), DOT, colour.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + DOT, y), DOT, colour.filled()));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::Figures;
    use crate::workspace::Workspace;

    #[test]
    fn the_picture_has_a_line_for_each_row_that_is_compared() {
        let rows = Rows::read(&Workspace::find()).unwrap();
        let figures = Figures { rounds: 1, mean: 900, min: 900, p50: 900, p99: 900, max: 900 };
        let measured = ["cpuid", "wbinvd", "touch-4k"]
            .map(|name| (name.to_owned(), Measured { figures, trace: None }))
            .into_iter()
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench.svg");
        write(&path, &rows, &measured).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.contains("CPUID leaf 0") && svg.contains("first touch of 4 KiB") && svg.contains("Lamina"));
        assert!(!svg.contains("WBINVD"), "nobody else has a figure of it");
    }
}
