//! One socket for all services: calls go on, as they are, to the role that serves them.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::server::Router;
use tonic::transport::{Channel, Server};

/// The services by their names on the wire.
#[derive(Clone, Copy)]
struct Identity;
#[derive(Clone, Copy)]
struct Controller;
#[derive(Clone, Copy)]
struct Node;

/// Sends every call of one service to a channel.
struct Forward<S> {
    to: Channel,
    service: PhantomData<fn() -> S>,
}

impl<S> Clone for Forward<S> {
    fn clone(&self) -> Self {
        Forward { to: self.to.clone(), service: PhantomData }
    }
}

impl<S> Forward<S> {
    fn new(to: Channel) -> Self {
        Forward { to, service: PhantomData }
    }
}

impl NamedService for Forward<Identity> {
    const NAME: &'static str = "csi.v1.Identity";
}
impl NamedService for Forward<Controller> {
    const NAME: &'static str = "csi.v1.Controller";
}
impl NamedService for Forward<Node> {
    const NAME: &'static str = "csi.v1.Node";
}

impl<S> Service<http::Request<Body>> for Forward<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The channel is asked when there is a call, for it may have to connect again.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut to = self.to.clone();
        Box::pin(async move {
            let ready = std::future::poll_fn(|context| to.poll_ready(context)).await;
            let answer = match ready {
                Ok(()) => to.call(request).await,
                Err(error) => Err(error),
            };
            Ok(answer.unwrap_or_else(|error| {
                // What the role did with the call is not known.
                let message = format!("the role that serves this is away: {}", crate::rpc::chain(&error));
                Status::unavailable(message).into_http()
            }))
        })
    }
}

/// Identity and Controller from the one, Node from the other.
pub(super) fn router(controller: Channel, node: Channel) -> Router {
    Server::builder()
        .add_service(Forward::<Identity>::new(controller.clone()))
        .add_service(Forward::<Controller>::new(controller))
        .add_service(Forward::<Node>::new(node))
}
