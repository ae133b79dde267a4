//! `mosu serve`: reads the options of the server, opens its socket and shows what it serves.

use std::{
    env, fs,
    io::{self, Write},
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum, builder::BoolishValueParser};
use mosu::{ChatTemplate, Engine, EngineOptions, KvReach, ModelInfo, SamplingDefaults, SamplingParams};
use tracing_subscriber::filter::LevelFilter;

use super::{
    exit::Failure,
    model_args::{self, GenerationConfig, ModelArgs},
    terminal,
    units::{self, parse_bytes, parse_count, parse_seconds},
};
use crate::{
    auth::{self, Access},
    body::BodyLimits,
    cors::{Cors, Origin},
    serve::{self as accept_loop, Ended, ServeOptions},
    state::{App, AppOptions},
};

/// One key; it is no flag, since every user of a machine can read the flags of its programs.
const KEY_VARIABLE: &str = "MOSU_API_KEY";

const EXAMPLES: &str = "\
Examples:
  mosu serve                                             the demonstration model on 127.0.0.1:8000
  mosu serve -m ./Qwen3-0.6B --port 9000                 another model, another port
  MOSU_API_KEY=secret mosu serve --host 0.0.0.0          for other machines, with a key
  mosu serve --host 0.0.0.0 --api-key-file keys.txt      with several keys, one a line
  mosu serve --cors http://localhost:5173                for a page in a browser

  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"What is mosu?\"}], \"stream\": true}'

A key can also be given in the variable MOSU_API_KEY. SIGTERM and Ctrl-C let running answers finish; a second
signal does not.";

/// `mosu serve`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// Address or name to serve on
    #[arg(long, env = "MOSU_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to serve on; 0 takes a free one
    #[arg(long, env = "MOSU_PORT", default_value_t = 8000)]
    port: u16,
    /// Take only requests with a key of this file: one a line, # begins a comment
    #[arg(long, env = "MOSU_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Serve other machines without a key
    #[arg(long, env = "MOSU_NO_AUTH", value_parser = BoolishValueParser::new())]
    no_auth: bool,
    /// Name of the model in requests and answers; several are separated by commas [default: the model's own]
    #[arg(long, env = "MOSU_SERVED_MODEL_NAME", value_name = "NAME", value_delimiter = ',')]
    served_model_name: Vec<String>,
    /// Use this chat template instead of the model's own: a Jinja file, or chatglm2, chatglm3, fingpt, internlm or
    /// skywork, for models that come without one
    #[arg(long, env = "MOSU_CHAT_TEMPLATE", value_name = "FILE|NAME")]
    chat_template: Option<PathBuf>,
    /// Draw tokens as the model's generation_config.json says where a request does not (temperature, top_k, top_p, min_p,
    /// repetition_penalty), or by OpenAI's defaults
    #[arg(long, env = "MOSU_GENERATION_CONFIG", value_enum, default_value_t)]
    generation_config: GenerationConfig,
    /// Let pages of these origins ask from within a browser, as https://app.example; * lets any page [default: none]
    #[arg(long, env = "MOSU_CORS", value_name = "ORIGIN", num_args = 1.., value_delimiter = ',')]
    cors: Vec<Origin>,
    /// Refuse requests with unknown fields instead of ignoring these
    #[arg(long, env = "MOSU_STRICT_PARAMS", value_parser = BoolishValueParser::new())]
    strict_params: bool,
    /// How much to log
    #[arg(long, env = "MOSU_LOG_LEVEL", value_enum, default_value_t, value_name = "LEVEL")]
    log_level: LogLevel,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Most requests that wait for the engine; more are refused with status 503
    #[arg(long, env = "MOSU_MAX_WAITING_REQUESTS", value_name = "N", value_parser = parse_count,
        default_value_t = EngineOptions::default().max_waiting_requests)]
    max_waiting_requests: usize,
    /// Most prompt tokens that wait for the engine
    #[arg(long, env = "MOSU_MAX_WAITING_TOKENS", value_name = "TOKENS", value_parser = parse_count,
        default_value_t = EngineOptions::default().max_waiting_tokens)]
    max_waiting_tokens: usize,
    /// Most connections; more wait to be accepted
    #[arg(long, env = "MOSU_MAX_CONNECTIONS", value_name = "N", value_parser = parse_count,
        default_value_t = ServeOptions::default().max_connections)]
    max_connections: usize,
    /// Largest body of a request, before and after it is decompressed, as 32MiB or bytes
    #[arg(long, env = "MOSU_MAX_BODY_SIZE", value_name = "SIZE", value_parser = parse_bytes, default_value = "32MiB")]
    max_body_size: usize,
    /// Largest headers of a request, 8KiB or more
    #[arg(long, env = "MOSU_MAX_HEADER_SIZE", value_name = "SIZE", value_parser = parse_header_size, default_value = "64KiB")]
    max_header_size: usize,
    /// Most time for the body of a request to come
    #[arg(long, env = "MOSU_BODY_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds, default_value = "30")]
    body_timeout: Duration,
    /// Most time for the headers of a request to come, once they begin to
    #[arg(long, env = "MOSU_HEADER_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds, default_value = "10")]
    header_timeout: Duration,
    /// Most time that a connection may wait for its next request; a proxy in front should give up sooner
    #[arg(long, env = "MOSU_KEEP_ALIVE_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds,
        default_value = "75")]
    keep_alive_timeout: Duration,
    /// Most time that a client may not read; then its connection is cut off
    #[arg(long, env = "MOSU_WRITE_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds, default_value = "60")]
    write_timeout: Duration,
    /// Most time for running answers to finish once the server is told to end
    #[arg(long, env = "MOSU_DRAIN_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds, default_value = "30")]
    drain_timeout: Duration,
}

impl LimitArgs {
    fn body(&self) -> BodyLimits {
        BodyLimits { max_bytes: self.max_body_size, timeout: self.body_timeout }
    }

    fn serving(&self) -> ServeOptions {
        ServeOptions {
            max_connections: self.max_connections,
            header_timeout: self.header_timeout,
            keep_alive_timeout: self.keep_alive_timeout,
            max_header_bytes: self.max_header_size,
            write_timeout: self.write_timeout,
            drain_timeout: self.drain_timeout,
        }
    }
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// The HTTP library has a least size of its buffer.
fn parse_header_size(text: &str) -> Result<usize, String> {
    const LEAST: usize = 8 << 10;
    let size = parse_bytes(text)?;
    if size < LEAST {
        Err(format!("{size} bytes are too few for headers; give at least 8KiB"))
    } else {
        Ok(size)
    }
}

/// Serves until a signal.
///
/// # Errors
/// What is wrong with the address, the keys, the model or the flags; and a failed engine.
pub fn serve(args: ServeArgs) -> Result<(), Failure> {
    log_to_stderr(args.log_level);
    let keys = keys(args.api_key_file.as_ref(), env::var_os(KEY_VARIABLE).map(|key| key.into_string()))?;
    // Before the model, so that a mistake shows at once.
    let (listener, address) = listen(&args.host, args.port, !keys.is_empty() || args.no_auth)?;
    let engine = model_args::load(EngineOptions {
        max_waiting_requests: args.limits.max_waiting_requests,
        max_waiting_tokens: args.limits.max_waiting_tokens,
        sampling_defaults: args.generation_config == GenerationConfig::Auto,
        ..args.model.engine_options()
    })?;
    let source = args.model.source();
    let chat_template =
        args.chat_template.as_ref().map(|chosen| ChatTemplate::choose(chosen, &source)).transpose()?;
    let access = match (keys.is_empty(), address.ip().is_loopback()) {
        (true, true) => Access::new(&keys).loopback_names_only(),
        _ => Access::new(&keys),
    };
    let keys = describe_keys(access.key_count(), address);
    let app = App::new(
        engine,
        AppOptions {
            model_names: args.served_model_name,
            chat_template,
            access,
            cors: Cors::new(args.cors),
            strict_params: args.strict_params,
            limits: args.limits.body(),
            max_waiting_requests: args.limits.max_waiting_requests,
        },
    );
    show(&app, address, keys, args.model.max_sequences);
    match run(listener, app, args.limits.serving())
        .map_err(|error| Failure::System(format!("cannot serve: {error}")))?
    {
        Ended::Stopped => Ok(()),
        Ended::EngineFailed(cause) => Err(mosu::RequestError::Fatal(cause).into()),
    }
}

fn run(listener: TcpListener, app: App, options: ServeOptions) -> io::Result<Ended> {
    // The cores belong to the engine. Templates and tokenizers run on the blocking threads.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).max_blocking_threads(4).enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut stop = accept_loop::stop_on_signals()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(accept_loop::serve(listener, Arc::new(app), options, &mut stop).await)
    });
    // A template that never ends must not hold up the end of the program.
    runtime.shutdown_background();
    ended
}

fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).init();
}

/// The keys of the file and of the variable. A key that is empty by mistake must not open the server.
fn keys(
    file: Option<&PathBuf>,
    variable: Option<Result<String, std::ffi::OsString>>,
) -> Result<Vec<String>, Failure> {
    let mut keys = Vec::new();
    if let Some(key) = variable {
        let key = key.unwrap_or_default().trim().to_string();
        if key.is_empty() {
            return Err(Failure::Usage(format!("{KEY_VARIABLE} holds no key: unset it, or give it one")));
        }
        keys.push(key);
    }
    if let Some(file) = file {
        let refused = |what: String| Failure::Usage(format!("--api-key-file {}: {what}", file.display()));
        let content = fs::read(file).map_err(|error| refused(error.to_string()))?;
        let found = auth::parse_keys(&content).map_err(|what| refused(what.into()))?;
        if found.is_empty() {
            return Err(refused("holds no key; write one on a line".into()));
        }
        keys.extend(found);
    }
    Ok(keys)
}

/// Opens the socket. Other machines are served only when `anyone` may come.
fn listen(host: &str, port: u16, anyone: bool) -> Result<(TcpListener, SocketAddr), Failure> {
    let unknown = |error| Failure::Usage(format!("--host {host} is no address of this machine: {error}"));
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(unknown)?.collect();
    if !anyone && !addresses.iter().all(|address| address.ip().is_loopback()) {
        return Err(Failure::Usage(format!(
            "--host {host} serves other machines, so a key is needed: set {KEY_VARIABLE}, or give --api-key-file FILE; \
             --no-auth serves everyone without one"
        )));
    }
    let busy = |error| {
        Failure::System(format!("cannot serve on {host}, port {port}: {error}; --port chooses another"))
    };
    let listener = TcpListener::bind(&addresses[..]).map_err(busy)?;
    let address = listener.local_addr().map_err(busy)?;
    Ok((listener, address))
}

fn describe_keys(count: usize, address: SocketAddr) -> String {
    match (count, address.ip().is_loopback()) {
        (0, true) => "not needed on this machine".into(),
        (0, false) => "not needed, by --no-auth: whoever reaches the address may ask".into(),
        _ => format!("{} known", units::count(count, "key")),
    }
}

/// How tokens are sampled for requests that do not say.
fn describe_defaults(engine: &Engine) -> String {
    let defaults = engine.sampling_defaults();
    match defaults.to_string() {
        none if none.is_empty() => format!("temperature {}", SamplingParams::from(defaults).temperature),
        named => format!("{named}, by {}", SamplingDefaults::FILE),
    }
}

/// How many sequences the KV cache has room for, when they are as long as can be and when so many run at once.
fn describe_room(info: &ModelInfo, sequences: usize) -> String {
    let (longest, most) = (units::count(info.max_model_len, "token"), info.memory.concurrency());
    let of_longest = |count| format!("{} of {longest}", units::count(count, "sequence"));
    match info.kv_groups.tokens_of_each(sequences, info.num_kv_blocks) {
        _ if most >= sequences => of_longest(sequences),
        0 => of_longest(most),
        each => format!("{}, or {sequences} of {each}", of_longest(most)),
    }
}

/// Prints what is served, and the memory that is planned for it; `sequences` may run at once.
fn show(app: &App, address: SocketAddr, keys: String, sequences: usize) {
    let info = app.engine.model_info();
    let mut rows = vec![
        ("model", app.model_names.join(", ")),
        ("architecture", info.architecture.clone()),
        ("formats", info.format_names()),
        ("parameters", units::parameters(info.parameters)),
        ("defaults", describe_defaults(&app.engine)),
        ("context", units::count(app.engine.max_model_len(), "token")),
        ("KV cache holds", describe_room(info, sequences)),
        ("device", info.device.clone()),
    ];
    if info.kv_groups.reaches().iter().any(|reach| *reach != KvReach::Full) {
        rows.push(("KV cache keeps", info.kv_groups.to_string()));
    }
    if !info.ignored_tensors.is_empty() {
        rows.push(("not needed", units::some_of(&info.ignored_tensors, "tensor")));
    }
    rows.extend(info.memory.rows().into_iter().map(|(share, bytes)| (share, units::bytes(bytes))));
    rows.extend(app.template_fault().map(|fault| ("no chats", fault)));
    rows.extend([("API key", keys), ("URL", format!("http://{address}/v1"))]);
    // Among the log's lines; a server goes on when nobody reads them.
    let _ = io::stderr().write_all(terminal::table(&rows).as_bytes());
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        limits: LimitArgs,
    }

    #[test]
    fn the_limits_of_the_help_are_those_of_the_library() {
        let limits = Defaults::parse_from(["mosu"]).limits;
        assert_eq!(format!("{:?}", limits.body()), format!("{:?}", BodyLimits::default()));
        assert_eq!(format!("{:?}", limits.serving()), format!("{:?}", ServeOptions::default()));
    }

    #[test]
    fn other_machines_need_a_key() {
        for host in ["0.0.0.0", "::", "192.0.2.1"] {
            let refused = listen(host, 0, false).unwrap_err();
            assert_eq!(refused.code(), 2);
            assert!(refused.to_string().contains("MOSU_API_KEY"), "{refused}");
        }
        let (_, address) = listen("127.0.0.1", 0, false).unwrap();
        assert!(address.ip().is_loopback() && address.port() > 0);
        assert!(listen("localhost", 0, false).is_ok());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let (_open, address) = listen("127.0.0.1", 0, false).unwrap();
        let refused = listen("127.0.0.1", address.port(), false).unwrap_err();
        assert_eq!(refused.code(), 1);
        assert!(refused.to_string().contains(&address.port().to_string()), "{refused}");
    }

    #[test]
    fn keys_come_from_file_and_variable() {
        let file = env::temp_dir().join(format!("mosu-keys-{}", std::process::id()));
        fs::write(&file, "# mine\none\n two \n").unwrap();
        assert_eq!(keys(Some(&file), Some(Ok("three".into()))).unwrap(), ["three", "one", "two"]);
        fs::write(&file, "\u{feff}one\r\n").unwrap();
        assert_eq!(keys(Some(&file), None).unwrap(), ["one"]);
        fs::write(&file, "# none yet\n").unwrap();
        assert!(keys(Some(&file), None).unwrap_err().to_string().contains("holds no key"));
        fs::remove_file(&file).unwrap();
        assert_eq!(keys(Some(&file), None).unwrap_err().code(), 2);
    }

    #[test]
    fn an_empty_key_does_not_open_the_server() {
        assert_eq!(keys(None, Some(Ok(" ".into()))).unwrap_err().code(), 2);
        assert_eq!(keys(None, None).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn headers_need_room() {
        assert!(parse_header_size("4KiB").is_err());
        assert_eq!(parse_header_size("8KiB"), Ok(8192));
    }
}
