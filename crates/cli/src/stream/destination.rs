//! `--to`: which sink, made of a URL and the options.

use std::fs;
use std::path::Path;
use std::time::Duration;

use synod_sinks::url::{self, Query, Url, decoded};

use super::envelope::{Enveloped, Origin, Render};
use super::options::{OnRefusal, Stream};
use super::sink::{self, Outbox, Sink};
use super::template::Template;
use super::tls::Trust;
use crate::arguments::Common;
use crate::failure::{Failure, sentence};

/// Of what may wait, the part that waits in the sink; the rest waits in the queue.
const SINK_PART: usize = 4;
/// More would only make a batch that is lost in a crash larger.
const SINK_MOST: usize = 8 << 20;

/// Of what stream a sink is.
pub struct Place<'a> {
    /// System identifier and database, or the group.
    pub source: &'a str,
    /// The database.
    pub database: &'a str,
}

/// The sink.
pub fn sink(common: &Common, options: &Stream, place: &Place<'_>) -> Result<Box<dyn Sink>, Failure> {
    let to = options.to.as_deref().unwrap_or("-");
    let limit = (options.max_memory / SINK_PART).min(SINK_MOST);
    if to == "-" {
        let render = enveloped(options, place, "{schema}.{table}", str::to_owned)?;
        return Ok(Box::new(Outbox::new(sink::StandardOutput, render, limit)));
    }
    if let Some(path) = to.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return file(options, place, path, limit);
    }
    if to.starts_with("postgresql://") || to.starts_with("postgres://") {
        return postgres(common, options, place, to);
    }
    let url = url::parse(to).map_err(|why| not_understood(to, &why))?;
    match url.scheme() {
        "http" | "https" => http(options, place, to, limit),
        "nats" | "tls" => nats(options, place, &url, limit),
        "redis" | "rediss" => redis(options, &url, limit),
        other => Err(not_understood(to, &format!("\"{other}\" is no kind of sink"))),
    }
}

/// Whether events are written to standard output.
pub fn is_standard_output(options: &Stream) -> bool {
    options.to.as_deref().unwrap_or("-") == "-"
}

fn not_understood(to: &str, why: &str) -> Failure {
    // A URL may hold a password: only its beginning is told.
    let scheme = to.split(':').next().unwrap_or_default();
    Failure::new(
        format!("the sink \"{scheme}:...\" cannot be understood"),
        sentence(why),
        "Sinks are -, file:PATH, postgresql://, http://, https://, nats://, tls://, redis:// and rediss://; see synod stream --help.",
    )
}

fn enveloped(
    options: &Stream,
    place: &Place<'_>,
    subject: &str,
    clean: fn(&str) -> String,
) -> Result<Box<dyn Render>, Failure> {
    let subject = Template::parse(subject, false).map_err(|why| not_understood(subject, &why))?;
    let origin = Origin {
        name: options.source().to_owned(),
        database: place.database.to_owned(),
    };
    let enveloped = Enveloped::new(options.envelope, origin, subject, clean)?;
    Ok(Box::new(enveloped))
}

fn file(options: &Stream, place: &Place<'_>, path: &str, limit: usize) -> Result<Box<dyn Sink>, Failure> {
    let rotation = sink::Rotation {
        bytes: options.rotate_size,
        age: options.rotate_after.map(Duration::from_secs),
    };
    let carrier = sink::File::new(Path::new(path), rotation, options.envelope, place.source, &options.slot);
    let render = enveloped(options, place, "{schema}.{table}", str::to_owned)?;
    Ok(Box::new(Outbox::new(carrier, render, limit)))
}

fn postgres(common: &Common, options: &Stream, place: &Place<'_>, to: &str) -> Result<Box<dyn Sink>, Failure> {
    let column = options.source_column.clone();
    let source = column.map(|column| (column, options.source().to_owned()));
    let mapping = sink::Mapping::new(options.target_schema.as_deref(), &options.rename_tables, source)?;
    // A copy of a server has the identifier of the original: of a roll-up's sources each has a position of its own.
    let from = match options.source_column {
        Some(_) => format!("{}/{}", place.source, options.source()),
        None => place.source.to_owned(),
    };
    let sink = sink::Postgres::new(to, mapping, &from, &options.slot, common.connect_timeout())?;
    Ok(Box::new(sink))
}

fn http(options: &Stream, place: &Place<'_>, to: &str, limit: usize) -> Result<Box<dyn Sink>, Failure> {
    let secret = options.secret_file.as_deref().map(|path| {
        let read = fs::read(path);
        read.map(|secret| secret.trim_ascii_end().to_vec()).map_err(|error| {
            Failure::new(
                format!("the secret in \"{}\" cannot be read", path.display()),
                sentence(&error.to_string()),
                "",
            )
        })
    });
    let carrier = sink::Http::new(
        to,
        options.envelope,
        options.batch,
        secret.transpose()?,
        &options.headers,
        &Trust::new(options.tls_ca.as_deref())?,
    )?;
    let render = enveloped(options, place, "{schema}.{table}", str::to_owned)?;
    Ok(Box::new(Outbox::new(carrier, render, limit)))
}

fn nats(options: &Stream, place: &Place<'_>, url: &Url, limit: usize) -> Result<Box<dyn Sink>, Failure> {
    let query = query(url, &["subject", "stream"])?;
    let subject = query.get("subject").unwrap_or_else(|| "synod.{schema}.{table}".into());
    // What the stream takes when it has to be made: every subject that the template can give.
    let mut all = subject.clone();
    for part in ["{schema}", "{table}", "{op}"] {
        all = all.replace(part, "*");
    }
    let carrier = sink::Nats::new(sink::NatsAddress {
        host: host(url)?,
        port: url.port().unwrap_or(4_222),
        tls: trust(options, url, "tls")?,
        user: decoded(url.username()),
        password: url.password().and_then(decoded),
        whose: format!("{}/{}", place.source, options.slot).replace(' ', "-"),
        create: query.get("stream").map(|stream| (stream, all)),
    });
    let render = enveloped(options, place, &subject, sink::nats_token)?;
    Ok(Box::new(Outbox::new(carrier, render, limit)))
}

fn redis(options: &Stream, url: &Url, limit: usize) -> Result<Box<dyn Sink>, Failure> {
    let query = query(url, &["key", "action", "channel"])?;
    let template = query.get("key").unwrap_or_else(|| "{schema}.{table}:{key}".into());
    let keys = Template::parse(&template, true).map_err(|why| not_understood(url.as_str(), &why))?;
    let action = match (query.get("action").as_deref(), query.get("channel")) {
        (None | Some("del"), None) => sink::RedisAction::Delete,
        (Some("unlink"), None) => sink::RedisAction::Unlink,
        (None | Some("publish"), Some(channel)) => sink::RedisAction::Publish(channel),
        (Some("publish"), None) => return Err(not_understood(url.as_str(), "publish needs a channel")),
        _ => return Err(not_understood(url.as_str(), "the actions are del, unlink and publish")),
    };
    let database = match url.path().trim_start_matches('/') {
        "" => 0,
        number => number
            .parse()
            .map_err(|_| not_understood(url.as_str(), "a database of Redis is a number"))?,
    };
    let carrier = sink::Redis::new(sink::RedisAddress {
        host: host(url)?,
        port: url.port().unwrap_or(6_379),
        tls: trust(options, url, "rediss")?,
        user: decoded(url.username()),
        password: url.password().and_then(decoded),
        database,
        action,
    });
    Ok(Box::new(Outbox::new(carrier, Box::new(sink::Keys::new(keys)), limit)))
}

/// Whom to trust, if the URL asks for encryption.
fn trust(options: &Stream, url: &Url, scheme: &str) -> Result<Option<Trust>, Failure> {
    let wanted = url.scheme() == scheme;
    wanted.then(|| Trust::new(options.tls_ca.as_deref())).transpose()
}

fn host(url: &Url) -> Result<String, Failure> {
    url::host(url).ok_or_else(|| not_understood(url.as_str(), "it names no host"))
}

fn query(url: &Url, known: &[&str]) -> Result<Query, Failure> {
    Query::of(url, known).map_err(|why| not_understood(url.as_str(), &why))
}

/// Refused events are parked.
pub fn parks(options: &Stream) -> bool {
    options.on_refusal == OnRefusal::Park
}
