use std::{
    io::{self, IsTerminal, Write},
    time::Instant,
};

use twinshare::api::{CacheReport, CachedWorkspace, FilePath, Pin, PinState, PrefetchStep, Transfer};

use super::{
    failure::Failure,
    output::{Side, count, duration, fields, json, plain, size, table},
    session::Session,
};

pub(super) async fn cache(session: &Session, as_json: bool) -> Result<String, Failure> {
    let report = session.client()?.cache().await?;
    if as_json { json(&report) } else { Ok(describe(&report)) }
}

fn describe(report: &CacheReport) -> String {
    let mut text = fields(&[
        ("used", format!("{} of {}", size(report.size.used), size(report.size.limit))),
        ("pinned", size(report.pinned)),
        ("reads", reads(report)),
        ("fetched", format!("{} since the start", size(report.fetched))),
    ]);
    if !report.workspaces.is_empty() {
        let row = |workspace: &CachedWorkspace| {
            let gone = || format!("{} (not shown any more)", workspace.id.short());
            let place = workspace.place.as_ref().map_or_else(gone, |place| plain(&place.to_string()));
            [place, size(workspace.bytes)]
        };
        let rows: Vec<_> = report.workspaces.iter().map(row).collect();
        text += "\n";
        text += &table([("WORKSPACE", Side::Left), ("CACHED", Side::Right)], &rows);
    }
    if !report.pins.is_empty() {
        let row = |pin: &Pin| [plain(&pin.path.to_string()), state(pin)];
        let rows: Vec<_> = report.pins.iter().map(row).collect();
        text += "\n";
        text += &table([("PINNED", Side::Left), ("STATE", Side::Left)], &rows);
    }
    text
}

/// How many reads the cache answered.
fn reads(report: &CacheReport) -> String {
    let all = report.reads_held + report.reads_fetched;
    match all {
        0 => "none since the start".to_owned(),
        all => format!("{}% of {} were in it", report.reads_held * 100 / all, count(all)),
    }
}

fn state(pin: &Pin) -> String {
    let progress = &pin.progress;
    match pin.state {
        PinState::Complete => {
            format!("complete: {} files, {}", count(progress.files), size(progress.bytes))
        }
        PinState::Fetching => how_far(progress),
        PinState::Waiting => match &pin.trouble {
            Some(trouble) => format!("{}; {}", how_far(progress), plain(trouble)),
            None => how_far(progress),
        },
    }
}

fn how_far(progress: &Transfer) -> String {
    format!(
        "{} of {} files, {} of {}",
        count(progress.here_files),
        count(progress.files),
        size(progress.here_bytes),
        size(progress.bytes)
    )
}

pub(super) async fn clear(
    session: &Session,
    place: Option<&FilePath>,
    as_json: bool,
) -> Result<String, Failure> {
    let client = session.client()?;
    let before = client.status().await?.cache.used;
    let report = client.clear_cache(place).await.map_err(|error| {
        let what = place.map_or_else(|| "the cache".to_owned(), |place| format!("the cache of {place}"));
        Failure::from(error).while_doing(format!("clear {what}"))
    })?;
    if as_json {
        return json(&report);
    }
    let freed = size(before.saturating_sub(report.size.used));
    let left = size(report.size.used);
    Ok(match report.pinned {
        0 => format!("{freed} freed, {left} left\n"),
        pinned => format!("{freed} freed, {left} left, of which {} are pinned\n", size(pinned)),
    })
}

pub(super) async fn prefetch(session: &Session, path: &FilePath, as_json: bool) -> Result<String, Failure> {
    let client = session.client()?;
    let started = Instant::now();
    let mut line = Line::new();
    let mut last = Transfer::default();
    let fetch = client.prefetch(path, |step: &PrefetchStep| {
        last = step.progress;
        line.show(&how_far(&step.progress));
    });
    let ended = tokio::select! {
        ended = fetch => Some(ended),
        _ = tokio::signal::ctrl_c() => None,
    };
    line.clear();
    let step = match ended {
        Some(ended) => ended.map_err(|error| Failure::from(error).while_doing(format!("fetch {path}")))?,
        None => {
            return Err(Failure::new(format!("stopped: {} are here", how_far(&last)))
                .with_remedy("the same command goes on from there"));
        }
    };
    if as_json {
        return json(&step.progress);
    }
    let Transfer { failed, pending, .. } = step.progress;
    let mut text =
        format!("{path} is here: {} in {}\n", how_far(&step.progress), duration(started.elapsed().as_secs()));
    if failed > 0 {
        text += &format!(
            "{} couldn't be had: they have changed, or their owner can't read them\n",
            count(failed)
        );
    }
    if pending > 0 {
        text += &format!("{} aren't hashed by their owner yet\n", count(pending));
    }
    Ok(plain_lines(&text))
}

/// Text of several lines with what peers named in them.
fn plain_lines(text: &str) -> String {
    text.lines().map(|line| plain(line) + "\n").collect()
}

pub(super) async fn pin(session: &Session, path: &FilePath, as_json: bool) -> Result<String, Failure> {
    let pin = session.client()?.pin(path).await;
    let pin = pin.map_err(|error| Failure::from(error).while_doing(format!("pin {path}")))?;
    if as_json {
        return json(&pin);
    }
    Ok(plain_lines(&format!("{path} is being kept complete; 'twinshare cache' shows how far it is\n")))
}

pub(super) async fn unpin(session: &Session, path: &FilePath) -> Result<String, Failure> {
    let unpinned = session.client()?.unpin(path).await;
    unpinned.map_err(|error| Failure::from(error).while_doing(format!("unpin {path}")))?;
    Ok(plain_lines(&format!("{path} is no longer pinned; what is here stays until its space is needed\n")))
}

/// A line on the terminal that is written again and again; nothing where there's no terminal.
pub(super) struct Line {
    terminal: bool,
}

impl Line {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    pub(super) fn show(&mut self, text: &str) {
        if self.terminal {
            // What can't be shown isn't needed.
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    pub(super) fn clear(&mut self) {
        self.show("");
    }
}
