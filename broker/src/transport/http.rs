//! The HTTP port: `/metrics`, `/healthz` and `/readyz`. What they say is counted and judged elsewhere.
//!
//! A connection is for one request, and for a few seconds. When too many are open, the oldest goes: who asks and reads
//! is done long before.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

use crate::metrics::Metrics;

/// Serves them until the task is aborted; answers with the address and the task.
pub(crate) async fn serve(address: SocketAddr, metrics: Metrics) -> std::io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(metrics);
    Ok((address, tokio::spawn(accept(listener, router))))
}

async fn accept(listener: TcpListener, router: Router) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly there is no descriptor for it: the connection waits in the kernel.
                tracing::debug!(%error, "a connection to the HTTP port cannot be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        while open.len() >= CONNECTIONS_MAX {
            open.pop_front().iter().for_each(AbortHandle::abort);
        }
        open.push_back(tokio::spawn(answer(stream, router.clone())).abort_handle());
    }
}

/// Answers one request.
async fn answer(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(REQUEST_TIME, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the HTTP port is lost"),
        Err(_) => tracing::debug!("a connection to the HTTP port took too long"),
    }
}

async fn text(State(metrics): State<Metrics>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(metrics): State<Metrics>) -> impl IntoResponse {
    let why = metrics.why_not_ready();
    match why.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// The media type of what `/metrics` answers.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections that are open at once.
const CONNECTIONS_MAX: usize = 32;
/// How long a request's header may take.
const HEADER_TIME: Duration = Duration::from_secs(3);
/// How long a connection may take for its request, the reading of the answer included.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's header, and of what is read and written at once. hyper asks for 8 KiB at least.
const BUFFER_BYTES: usize = 16 << 10;
/// When it is tried again to accept a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
