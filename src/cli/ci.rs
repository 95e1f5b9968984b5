//! An environment's checks, run without anybody at the keyboard.

use std::{
    fs::{self, File},
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use tokio::io::AsyncReadExt;
use twinshare::{
    api::Launch,
    runtime::{Link, LinkError, Phase, Program, Streams},
    workspace::definition::Check,
};

use super::{
    Answer,
    arguments::{Ci, Format, Start},
    environments::{begin, ended, ready},
    failure::Failure,
    output::plain,
    session::Session,
};

/// How much of what a check prints is kept, in bytes.
const KEPT: usize = 1 << 20;

/// What came of a check.
struct Outcome {
    name: String,
    /// Its exit code, or 128 and the number of a signal.
    code: u8,
    took: Duration,
    printed: String,
}

/// Starts the environment without its command, runs its checks one after the other, and ends it.
pub(super) async fn ci(session: &Session, options: Ci) -> Result<Answer, Failure> {
    let client = session.client()?;
    let Ci { workspace, environment, junit, net, yes } = options;
    let format = Format { json: false };
    let start = Start { workspace, environment, net, yes, wait: true, idle: true, anyway: false, format };
    let before: Vec<String> = client
        .environments()
        .await?
        .into_iter()
        .filter(|one| !one.state.phase.is_over())
        .map(|one| one.id)
        .collect();
    let mut launch = begin(&client, &start).await?;
    let was_running = before.contains(&launch.id);
    launch.state = ready(&launch).await?;
    if launch.state.phase == Phase::Failed {
        ended(&launch)?;
    }
    let mut outcomes = Vec::new();
    let ran = async {
        for check in launch.checks.clone() {
            let outcome = run(&launch, &check).await?;
            show(&outcome)?;
            outcomes.push(outcome);
        }
        Ok::<_, Failure>(())
    };
    let ran = tokio::select! {
        ran = ran => ran,
        _ = tokio::signal::ctrl_c() => Err(Failure::new("the checks were broken off")),
    };
    if !was_running {
        client.stop(&launch.id, false).await?;
    }
    if let Some(file) = junit {
        write_junit(&launch, &outcomes, &file)?;
    }
    ran?;
    if outcomes.is_empty() {
        return Err(Failure::new(format!("'{}' has no checks", plain(&launch.environment))).with_remedy(
            "'checks: [{name: …, command: …}]' in its definition describes them (docs/WORKSPACE.md)",
        ));
    }
    let failed = outcomes.iter().filter(|outcome| outcome.code != 0).count();
    let code = if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let text = match failed {
        0 => format!("all {} passed\n", outcomes.len()),
        _ => format!("{failed} of {} failed\n", outcomes.len()),
    };
    Ok(Answer::Said { text, code })
}

async fn run(launch: &Launch, check: &Check) -> Result<Outcome, Failure> {
    let cannot =
        |error: LinkError| Failure::new(format!("can't run the check '{}': {error}", plain(&check.name)));
    let pipe = || -> io::Result<_> {
        let (reader, writer) = io::pipe()?;
        let nothing = File::open("/dev/null")?;
        Ok((reader, [nothing.into(), writer.try_clone()?.into(), writer.into()]))
    };
    let (reader, streams) = pipe().map_err(|error| cannot(error.into()))?;
    let words = check.command.words().into_iter().map(Into::into).collect();
    let program = Program { words, ..Program::default() };
    let begun = Instant::now();
    let link = Link::open(launch.folder.as_path()).map_err(cannot)?;
    let running = link.run(program, Streams::Given(streams)).await.map_err(cannot)?;
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into());
    let mut reader = reader.map_err(|error| cannot(error.into()))?;
    let mut printed = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    let code = {
        let wait = running.wait();
        tokio::pin!(wait);
        loop {
            tokio::select! {
                biased;
                read = reader.read(&mut buffer) => match read {
                    Ok(length @ 1..) => {
                        let room = KEPT.saturating_sub(printed.len());
                        printed.extend_from_slice(&buffer[..length.min(room)]);
                    }
                    _ => break wait.await,
                },
                code = &mut wait => break code,
            }
        }
    };
    Ok(Outcome {
        name: check.name.clone(),
        code: code.map_err(cannot)?,
        took: begun.elapsed(),
        printed: String::from_utf8_lossy(&printed).into_owned(),
    })
}

fn show(outcome: &Outcome) -> Result<(), Failure> {
    let Outcome { name, code, took, printed } = outcome;
    let how = if *code == 0 { "pass".to_owned() } else { format!("FAIL with code {code}") };
    let mut text = format!("{how}  {}  ({:.1} s)\n", plain(name), took.as_secs_f64());
    if *code != 0 {
        for line in printed.lines() {
            text += &format!("  {line}\n");
        }
    }
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("can't write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn write_junit(launch: &Launch, outcomes: &[Outcome], file: &std::path::Path) -> Result<(), Failure> {
    let mut suite = TestSuite::new(format!("{}/{}", launch.workspace, launch.environment));
    for Outcome { name, code, took, printed } in outcomes {
        let status = if *code == 0 {
            TestCaseStatus::success()
        } else {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(format!("it ended with code {code}"));
            status
        };
        let mut case = TestCase::new(name.as_str(), status);
        case.set_classname(launch.environment.as_str()).set_time(*took).set_system_out(printed.as_str());
        suite.add_test_case(case);
    }
    let mut report = Report::new(format!("{}/{}", launch.host, launch.workspace));
    report.add_test_suite(suite);
    let text =
        report.to_string().map_err(|error| Failure::new(format!("can't write the results: {error}")))?;
    fs::write(file, text)
        .map_err(|error| Failure::new(format!("can't write {}: {error}", plain(&file.to_string_lossy()))))
}
