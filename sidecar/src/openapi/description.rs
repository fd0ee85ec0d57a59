//! What the document says of an operation beside what its handler's types say.

use aide::{
    openapi::{Link, LinkOperation, MediaType, Operation, ReferenceOr, StatusCode},
    transform::TransformOperation,
};
use context_manager_protocol::problem::Code;
use serde_json::{Value, json};

use crate::metrics::{Label as _, Route};

/// Where an operation's problem codes stand, in the document too.
pub(super) const CODES: &str = "x-problem-codes";

/// What the document says of an operation.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The operation's id in the document, in metrics and in the audit log.
    pub route: Option<Route>,
    /// What it does, in few words.
    pub summary: &'static str,
    /// What else one must know.
    pub details: &'static str,
    /// Status codes of success, and what each means.
    pub answers: &'static [(u16, &'static str)],
    /// Problems that only some operations have; those of the extractors are known from the handler's types.
    pub problems: &'static [Code],
    /// Operations on the context whose `id` the answer has.
    pub links: &'static [Route],
    /// A body of a request.
    pub example: Value,
}

impl Description {
    /// Adds this to what is known from the handler.
    pub fn of(self, mut transform: TransformOperation<'_>) -> TransformOperation<'_> {
        let Self { route, summary, details, answers, problems, links, example } = self;
        let operation = transform.inner_mut();
        operation.operation_id = route.map(|route| route.as_str().to_owned());
        operation.summary = Some(summary.to_owned());
        operation.description = Some(details.to_owned()).filter(|details| !details.is_empty());
        refuses(operation, problems);
        answered_by(operation, answers, links);
        if let Some(ReferenceOr::Item(body)) = &mut operation.request_body {
            // The example is the message; in MessagePack it has the same shape.
            body.content.values_mut().for_each(|content| exemplify(content, &example));
        }
        transform
    }
}

fn exemplify(content: &mut MediaType, example: &Value) {
    if !example.is_null() {
        content.example = Some(example.clone());
    }
}

/// Adds problems that an operation may answer.
pub(super) fn refuses(operation: &mut Operation, codes: &[Code]) {
    let listed = operation.extensions.entry(CODES.to_owned()).or_insert_with(|| json!([]));
    if let Value::Array(listed) = listed {
        listed.extend(codes.iter().map(|code| json!(code.as_str())));
    }
}

/// Puts the answer of the handler's type under its status codes.
fn answered_by(operation: &mut Operation, answers: &[(u16, &str)], links: &[Route]) {
    let Some(responses) = &mut operation.responses else { return };
    let Some(ReferenceOr::Item(answer)) = responses.default.take() else { return };
    for (status, description) in answers {
        let mut answer = answer.clone();
        (*description).clone_into(&mut answer.description);
        answer.links.extend(links.iter().map(|route| (route.as_str().to_owned(), ReferenceOr::Item(link(*route)))));
        responses.responses.insert(StatusCode::Code(*status), ReferenceOr::Item(answer));
    }
}

fn link(route: Route) -> Link {
    Link {
        description: None,
        operation: LinkOperation::OperationId(route.as_str().to_owned()),
        request_body: None,
        parameters: [("id".to_owned(), json!("$response.body#/id"))].into(),
        server: None,
        extensions: [].into(),
    }
}
