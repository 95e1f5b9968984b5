//! A plugin as a [`Room`]: a program that is asked by JSON-RPC on its standard streams (docs/PLUGINS.md).

use std::{
    collections::HashMap,
    ffi::OsStr,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use rustix::termios::tcgetwinsize;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex},
    process::{Child, ChildStdin, ChildStdout},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    agent::Program,
    limits::Limits,
    relay::{Ends, Piece, feed, write},
    room::{Connection, Room, RoomError, Running, Streams},
};

/// The protocol's version.
pub const VERSION: u32 = 1;

/// A message of a plugin is at most so long, in bytes.
const LONGEST: u64 = 1 << 20;

/// Pieces of a program's output, or of a connection, that wait to be taken.
const WAITING: usize = 64;

/// Bytes that are sent in one message.
const PIECE: usize = 32 << 10;

/// How long a plugin may take to say what it is, and to end when it was told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to make the environment: a machine may have to boot.
const BEGINNING: Duration = Duration::from_secs(300);

/// How a plugin's environment is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plugged {
    /// The plugin.
    pub program: PathBuf,
    /// The launch's identity: the plugin may call what it makes by it.
    pub id: String,
    /// Where the plugin may keep what it needs.
    pub folder: PathBuf,
    /// Where the workspace is on this machine, and in the environment.
    pub workspace: (PathBuf, PathBuf),
    /// What the environment is described as.
    pub definition: Value,
    /// Whether it may use the network.
    pub network: bool,
    /// What it may use.
    pub limits: Limits,
}

/// The plugin of this name in one of the folders of `search`, a value such as PATH has.
pub fn find_plugin(search: &OsStr, name: &str) -> Option<PathBuf> {
    let folders = std::env::split_paths(search).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(format!("twinshare-runtime-{name}"))).find(|path| path.is_file())
}

/// A plugin that runs.
pub(super) struct Plugin {
    name: String,
    sender: mpsc::Sender<Value>,
    shared: Arc<Shared>,
    next: AtomicU64,
    over: watch::Receiver<Option<String>>,
    child: Mutex<Option<Child>>,
}

#[derive(Default)]
struct Shared {
    /// Requests without an answer yet.
    open: Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>,
    programs: Mutex<HashMap<u64, Followed>>,
    connections: Mutex<HashMap<u64, mpsc::Sender<Bytes>>>,
}

/// A program that runs, as it's told of.
struct Followed {
    output: mpsc::Sender<Piece>,
    end: oneshot::Sender<u8>,
}

/// What a plugin says.
#[derive(Deserialize)]
struct Message {
    id: Option<u64>,
    result: Option<Value>,
    error: Option<Failure>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

#[derive(Deserialize)]
struct Failure {
    message: String,
}

/// What it tells of by itself.
#[derive(Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "lowercase")]
enum Told {
    Output { program: u64, stream: String, data: String },
    Ended { program: u64, code: u8 },
    Data { connection: u64, data: String },
    Closed { connection: u64 },
    Log { text: String },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plugin {
    /// Starts the plugin, and has it make the environment.
    ///
    /// # Errors
    /// What the plugin says, or that it says nothing.
    pub(super) async fn start(how: &Plugged) -> Result<Self, RoomError> {
        let start = |source| RoomError::Start { program: how.program.clone(), source };
        let mut child = tokio::process::Command::new(&how.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(RoomError::Ended("the plugin has no streams".to_owned()));
        };
        let name = how.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (sender, receiver) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared::default());
        let (end, over) = watch::channel(None);
        tokio::spawn(say(stdin, receiver));
        tokio::spawn({
            let (shared, name) = (shared.clone(), name.clone());
            async move {
                let why = listen(stdout, &shared, &name).await;
                lock(&shared.open).clear();
                lock(&shared.programs).clear();
                lock(&shared.connections).clear();
                end.send_replace(Some(why));
            }
        });
        let child = Mutex::new(Some(child));
        let plugin = Self { name, sender, shared, next: AtomicU64::new(1), over, child };
        let hello = plugin.ask("initialize", json!({"version": VERSION}), PATIENCE).await?;
        if hello["version"] != VERSION {
            return Err(RoomError::Ended(format!(
                "the plugin {} speaks version {} of the protocol, this program {VERSION}",
                plugin.name, hello["version"]
            )));
        }
        let Plugged { id, folder, workspace, definition, network, limits, .. } = how;
        let params = json!({
            "id": id,
            "folder": folder,
            "workspace": {"here": workspace.0, "there": workspace.1},
            "definition": definition,
            "network": network,
            "limits": {"cpus": limits.cpus, "memory": limits.memory},
        });
        plugin.ask("start", params, BEGINNING).await?;
        Ok(plugin)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn gone(&self) -> RoomError {
        let why = self.over.borrow().clone().unwrap_or_else(|| "it doesn't listen".to_owned());
        RoomError::Ended(format!("the plugin {}: {why}", self.name))
    }

    async fn ask(&self, method: &str, params: Value, patience: Duration) -> Result<Value, RoomError> {
        let id = self.number();
        let (answer, answered) = oneshot::channel();
        lock(&self.shared.open).insert(id, answer);
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.sender.send(request).await.map_err(|_| self.gone())?;
        match timeout(patience, answered).await {
            Ok(Ok(answer)) => answer.map_err(RoomError::Program),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => {
                lock(&self.shared.open).remove(&id);
                Err(RoomError::Ended(format!("the plugin {} doesn't answer '{method}'", self.name)))
            }
        }
    }
}

/// Sends what there is to say, a line each.
async fn say(mut stdin: ChildStdin, mut messages: mpsc::Receiver<Value>) {
    while let Some(message) = messages.recv().await {
        let line = format!("{message}\n");
        if stdin.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Passes on what a plugin says until it's gone; says why.
async fn listen(stdout: ChildStdout, shared: &Shared, name: &str) -> String {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stdout).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return "it has ended".to_owned(),
            Ok(_) if line.last() != Some(&b'\n') => return "it says more than is allowed at once".to_owned(),
            Ok(_) => {}
        }
        let message = match serde_json::from_slice::<Message>(&line) {
            Ok(message) => message,
            Err(error) => return format!("it says what isn't understood: {error}"),
        };
        if let Some(method) = message.method {
            let told = serde_json::from_value::<Told>(json!({"method": method, "params": message.params}));
            match told {
                Ok(told) => hear(told, shared, name).await,
                Err(error) => {
                    tracing::warn!(%error, plugin = name, method, "what a plugin tells isn't understood")
                }
            }
        } else if let Some(answer) = message.id.and_then(|id| lock(&shared.open).remove(&id)) {
            let result = match message.error {
                Some(failure) => Err(failure.message),
                None => Ok(message.result.unwrap_or_default()),
            };
            // Whoever asked may have gone.
            let _ = answer.send(result);
        }
    }
}

async fn hear(told: Told, shared: &Shared, name: &str) {
    let bytes = |data: &str| BASE64_STANDARD.decode(data).map(Bytes::from).unwrap_or_default();
    match told {
        Told::Output { program, stream, data } => {
            let output = lock(&shared.programs).get(&program).map(|followed| followed.output.clone());
            if let Some(output) = output {
                let bytes = bytes(&data);
                let piece = if stream == "stderr" { Piece::Err(bytes) } else { Piece::Out(bytes) };
                // Where nobody takes it, it's passed over.
                let _ = output.send(piece).await;
            }
        }
        Told::Ended { program, code } => {
            if let Some(followed) = lock(&shared.programs).remove(&program) {
                // As above.
                let _ = followed.end.send(code);
            }
        }
        Told::Data { connection, data } => {
            let to = lock(&shared.connections).get(&connection).cloned();
            if let Some(to) = to {
                // As above.
                let _ = to.send(bytes(&data)).await;
            }
        }
        Told::Closed { connection } => drop(lock(&shared.connections).remove(&connection)),
        Told::Log { text } => tracing::info!(plugin = name, "{text}"),
    }
}

/// Sends what comes as messages of this kind, the last without data.
async fn pass_on(
    mut from: impl tokio::io::AsyncRead + Unpin,
    to: mpsc::Sender<Value>,
    method: &str,
    what: &str,
    number: u64,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        let data = (length > 0).then(|| BASE64_STANDARD.encode(&buffer[..length]));
        let message = json!({"jsonrpc": "2.0", "method": method, "params": {what: number, "data": data}});
        if to.send(message).await.is_err() || length == 0 {
            return;
        }
    }
}

impl Room for Plugin {
    fn spawn<'a>(&'a self, program: Program, streams: Streams) -> BoxFuture<'a, Result<Running, RoomError>> {
        async move {
            let number = self.number();
            let size = match &streams {
                Streams::Terminal(size) => Some(*size),
                Streams::Given(_) => None,
            };
            let ends = Ends::new(streams)?;
            let (output, mut pieces) = mpsc::channel(WAITING);
            let (end, ended) = oneshot::channel();
            lock(&self.shared.programs).insert(number, Followed { output, end });
            let text = |text: &OsStr| text.to_string_lossy().into_owned();
            let words: Vec<_> = program.words.iter().map(|word| text(word)).collect();
            let variables: HashMap<_, _> =
                program.variables.iter().map(|(name, value)| (name.clone(), text(value))).collect();
            let params = json!({
                "program": number,
                "words": words,
                "variables": variables,
                "directory": program.directory.as_deref().map(text),
                "terminal": size,
            });
            if let Err(error) = self.ask("spawn", params, BEGINNING).await {
                lock(&self.shared.programs).remove(&number);
                return Err(error);
            }
            let (input, far) = duplex(PIECE);
            let reading = tokio::spawn(feed(ends.stdin, input));
            tokio::spawn(pass_on(far, self.sender.clone(), "input", "program", number));
            let written = tokio::spawn(async move {
                let pieces = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
                write(pieces, ends.stdout, ends.stderr).await;
            });
            let code = async move {
                let code = ended.await.ok();
                // What it printed is there before its end is told.
                let _ = written.await;
                reading.abort();
                code
            };
            let code = tokio::spawn(code).map(|code| code.ok().flatten()).boxed();
            let (sender, back) = (self.sender.clone(), ends.back);
            let signal = move |signal: i32| {
                let size = match (&back, signal) {
                    (Some(back), libc::SIGWINCH) => tcgetwinsize(&**back).ok(),
                    _ => None,
                };
                let size = size.map(|size| (size.ws_row, size.ws_col));
                let params = json!({"program": number, "signal": signal, "terminal": size});
                let message = json!({"jsonrpc": "2.0", "method": "signal", "params": params});
                let sender = sender.clone();
                // If it isn't there any more, nobody needs a signal.
                async move { drop(sender.send(message).await) }.boxed()
            };
            Ok(Running::new(ends.front, code, Arc::new(signal)))
        }
        .boxed()
    }

    fn connect(&self, port: u16) -> BoxFuture<'_, Result<Connection, RoomError>> {
        async move {
            let number = self.number();
            let (data, mut came) = mpsc::channel::<Bytes>(WAITING);
            lock(&self.shared.connections).insert(number, data);
            let asked = self.ask("connect", json!({"connection": number, "port": port}), PATIENCE).await;
            if let Err(error) = asked {
                lock(&self.shared.connections).remove(&number);
                return Err(error);
            }
            let (near, far): (DuplexStream, DuplexStream) = duplex(PIECE);
            let (reading, mut writing) = tokio::io::split(far);
            tokio::spawn(pass_on(reading, self.sender.clone(), "data", "connection", number));
            tokio::spawn(async move {
                while let Some(bytes) = came.recv().await {
                    if writing.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                // Whoever is connected may have gone.
                let _ = writing.shutdown().await;
            });
            Ok(Box::pin(near) as Connection)
        }
        .boxed()
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        let mut over = self.over.clone();
        async move {
            let why = over.wait_for(Option::is_some).await;
            let why = why.ok().and_then(|why| why.clone()).unwrap_or_default();
            format!("the plugin {}: {why}", self.name)
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        async move {
            // It's asked first; with its streams it has to end all that it made.
            let _ = self.ask("stop", json!({}), PATIENCE).await;
            let child = lock(&self.child).take();
            if let Some(mut child) = child
                && timeout(PATIENCE, child.wait()).await.is_err()
            {
                tracing::warn!(plugin = self.name, "a plugin doesn't end, and is killed");
                let _ = child.kill().await;
            }
        }
        .boxed()
    }
}
