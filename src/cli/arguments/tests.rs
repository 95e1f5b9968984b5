use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

fn parse(line: &str) -> Result<Verb, clap::Error> {
    Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.verb)
}

#[test]
fn what_follows_the_dashes_is_the_command() {
    let Verb::Run(run) = parse("twinshare run owner/lab -- python -c 1 --net").unwrap() else { panic!() };
    assert_eq!(run.command, ["python", "-c", "1", "--net"]);
    assert!(!run.net);
    let Verb::Run(run) = parse("twinshare run owner/lab --net").unwrap() else { panic!() };
    assert!(run.net && run.command.is_empty());
    for bad in ["owner", "owner/lab/src", "owner/..", "owner/lab python"] {
        assert_eq!(parse(&format!("twinshare run {bad}")).unwrap_err().exit_code(), 2, "{bad}");
    }
}

#[test]
fn ls_tells_hosts_from_files() {
    let Verb::Ls(ls) = parse("twinshare ls owner/").unwrap() else { panic!() };
    assert!(matches!(ls.what, Some(Listed::Host(_))));
    let Verb::Ls(ls) = parse("twinshare ls owner/lab/").unwrap() else { panic!() };
    assert!(matches!(ls.what, Some(Listed::Files(path)) if path.path.is_empty()));
    assert!(parse("twinshare ls /").is_err());
}
