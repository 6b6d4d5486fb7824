//! An HTTP endpoint that does as it is told, and remembers what it was sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Request {
    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }
}

/// What to answer: status line and headers.
type Answer = Box<dyn FnMut(&Request) -> String + Send>;

/// The endpoint. Its thread ends with the process.
#[derive(Clone)]
pub struct Endpoint {
    state: Arc<Mutex<State>>,
    port: u16,
}

struct State {
    requests: Vec<Request>,
    answer: Answer,
}

impl Endpoint {
    /// Listens on a free port.
    pub fn start(answer: impl FnMut(&Request) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let endpoint = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::new(Mutex::new(State {
                requests: Vec::new(),
                answer: Box::new(answer),
            })),
        };
        let serving = endpoint.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let endpoint = serving.clone();
                thread::spawn(move || endpoint.serve(stream));
            }
        });
        endpoint
    }

    /// From now on it answers so.
    pub fn answer(&self, answer: impl FnMut(&Request) -> String + Send + 'static) {
        self.state.lock().unwrap().answer = Box::new(answer);
    }

    /// What has come.
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The newest of them.
    pub fn newest(&self) -> Option<Request> {
        self.state.lock().unwrap().requests.last().cloned()
    }

    /// Where.
    pub fn url(&self) -> String {
        format!("http://user:secret@127.0.0.1:{}/hook?x=1", self.port)
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(request) = read(&mut reader) {
            let answer = {
                let mut state = self.state.lock().unwrap();
                state.requests.push(request.clone());
                (state.answer)(&request)
            };
            // Nothing at all: the connection is cut.
            if answer.is_empty() {
                return;
            }
            let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 4\r\n\r\nsaid");
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request {
        headers,
        body: String::new(),
    };
    let mut body = vec![0; request.header("content-length").parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}
