use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal, Seek, Write},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
};

use twinshare::{
    api::{LaunchRequest, RawText},
    runtime::terminal_filter,
};

use super::{
    arguments::Run,
    failure::Failure,
    launch::Launch,
    session::{Session, find_host, find_workspace},
};

/// Asks the node for the sandbox.
pub(super) async fn run(session: &Session, options: Run) -> Result<Launch, Failure> {
    let cannot = |failure: Failure| failure.while_doing(format!("run in '{}'", options.workspace));
    let client = session.client().map_err(cannot)?;
    let hosts = client.hosts().await?;
    let host = find_host(&hosts, &options.workspace.host).map_err(cannot)?;
    let workspace = find_workspace(host, &options.workspace.workspace).map_err(cannot)?;
    let command = if options.command.is_empty() {
        // The sandbox has this machine's /bin.
        vec![RawText::from(if Path::new("/bin/bash").exists() { "bash" } else { "sh" })]
    } else {
        options.command.iter().cloned().map(RawText::from).collect()
    };
    let filter = if io::stdin().is_terminal() {
        let filter = terminal_filter_file();
        Some(filter.map_err(|error| cannot(Failure::new(format!("can't prepare the terminal: {error}"))))?)
    } else {
        None
    };
    let request = LaunchRequest {
        host: host.name.clone(),
        workspace: workspace.name.clone(),
        command,
        network: options.net,
        terminal: filter.as_ref().map(AsRawFd::as_raw_fd),
        environment: passed(env::vars_os()),
    };
    let plan = client.launch(&request).await.map_err(|error| cannot(error.into()))?;
    let own = plan
        .arguments
        .strip_suffix(request.command.as_slice())
        .ok_or_else(|| cannot(Failure::new("the node has another command in mind")))?;
    let mut sandbox = Command::new(plan.program.as_os_str());
    sandbox
        .args(own.iter().map(RawText::as_os_str))
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value.as_os_str())));
    let command = request.command.iter().map(|word| word.as_os_str().to_owned()).collect();
    Ok(Launch { sandbox, command, terminal: filter })
}

/// What keeps the launched from typing into this terminal, in a file that the sandbox's program inherits.
fn terminal_filter_file() -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("terminal-filter", rustix::fs::MemfdFlags::empty())?);
    file.write_all(&terminal_filter())?;
    file.rewind()?;
    Ok(file)
}

/// The variables that say how the user's terminal and language are: the only ones that reach the environment.
fn passed(variables: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, RawText> {
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| {
            matches!(name.as_str(), "TERM" | "COLORTERM" | "NO_COLOR" | "LANG" | "LANGUAGE" | "TZ")
                || name.starts_with("LC_")
        })
        .map(|(name, value)| (name, value.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_environment_stay_outside() {
        let variables = [("TERM", "xterm"), ("LC_ALL", "C"), ("AWS_SECRET_ACCESS_KEY", "s"), ("PATH", "/x")];
        let passed = passed(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        assert_eq!(passed.keys().collect::<Vec<_>>(), ["LC_ALL", "TERM"]);
    }
}
