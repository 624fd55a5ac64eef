//! The data of a page as the browser gets it: taken out of the HTML, inflated, its columns as numbers.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;

pub struct Webpage {
    pub header: Value,
    pub columns: BTreeMap<String, Vec<i64>>,
}

impl Webpage {
    pub fn new(html: &str) -> Webpage {
        let (_, rest) = html.split_once(r#"<script type="application/octet-stream" id="data">"#).unwrap();
        let deflated = from_base64(rest.split_once("</script>").unwrap().0);
        let mut bytes = Vec::new();
        flate2::read::DeflateDecoder::new(deflated.as_slice()).read_to_end(&mut bytes).unwrap();
        let (len, rest) = bytes.split_at(4);
        let (json, mut rest) = rest.split_at(u32::from_le_bytes(len.try_into().unwrap()) as usize);
        let header: Value = serde_json::from_slice(json).unwrap();
        let mut columns = BTreeMap::new();
        for entry in header["columns"].as_array().unwrap() {
            let (column, behind) = rest.split_at(entry[2].as_u64().unwrap() as usize);
            rest = behind;
            columns.insert(entry[0].as_str().unwrap().to_owned(), numbers(column, entry[3].as_str().unwrap()));
        }
        Webpage { header, columns }
    }

    /// `function bytes count source` of the stacks of the tab that is opened, by their last frame, the largest first.
    pub fn stacks(&self) -> Vec<String> {
        let column = |name: &str| &self.columns[name];
        let tab = self.header["open"]["tab"].as_str().unwrap();
        let peaks = column("buckets.peak_bytes");
        let peak = 2 * (0..peaks.len()).max_by_key(|&bucket| peaks[bucket]).unwrap_or(0) as i64;
        let mut sums = BTreeMap::<usize, (i64, i64)>::new();
        for row in 0..column("intervals.cell").len() {
            let at = |name: &str| column(name)[row];
            let (born, died) = (at("intervals.born"), at("intervals.died"));
            let counts = match tab {
                "peak" => born <= peak && (died == 0 || died - 1 > peak),
                "leaks" => died == 0,
                _ => true,
            };
            if counts {
                let node = column("cells.node")[at("intervals.cell") as usize] as usize;
                let sum = sums.entry(column("nodes.frame")[node] as usize).or_default();
                *sum = (sum.0 + at("intervals.bytes"), sum.1 + at("intervals.count"));
            }
        }
        let text = |name: &str, frame: usize| self.header["strings"][column(name)[frame] as usize].as_str().unwrap();
        let mut rows: Vec<_> = sums.into_iter().filter(|(_, sum)| *sum != (0, 0)).collect();
        rows.sort_by_key(|(_, sum)| -sum.0);
        let line = |(frame, (bytes, count)): &(usize, (i64, i64))| {
            let line = format!("{} {bytes} {count} {}", text("frames.function", *frame), text("frames.source", *frame));
            line.trim_end().to_owned()
        };
        rows.iter().map(line).collect()
    }
}

fn numbers(bytes: &[u8], kind: &str) -> Vec<i64> {
    let (mut found, mut number, mut shift, mut before) = (Vec::new(), 0u64, 0, 0);
    for byte in bytes {
        number |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 != 0 {
            continue;
        }
        let signed = (number >> 1) as i64 ^ -((number & 1) as i64);
        let value = match kind {
            "plain" => number as i64,
            "signed" => signed,
            _ => before + signed,
        };
        before = value;
        found.push(value);
        (number, shift) = (0, 0);
    }
    found
}

fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => 0,
    };
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let number = group.iter().fold(0, |number, &byte| number << 6 | u32::from(digit(byte)));
        let n_padding = group.iter().filter(|&&byte| byte == b'=').count();
        bytes.extend_from_slice(&number.to_be_bytes()[1..4 - n_padding]);
    }
    bytes
}
