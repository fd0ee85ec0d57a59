//! What the extractors and answers of the handlers mean in the document.

use aide::{
    OperationInput, OperationOutput,
    generate::GenContext,
    openapi::{
        HeaderStyle, MediaType, Operation, Parameter, ParameterData, ParameterSchemaOrContent, PathStyle, RequestBody,
        Response, SchemaObject, StatusCode,
    },
    operation::{ParamLocation, add_parameters, parameters_from_schema, set_body},
};
use context_manager_protocol::{
    codec::Format,
    message::{ExportEnd, ExportedContext},
    problem::Code,
};
use schemars::{JsonSchema, Schema, json_schema};

use super::description::refuses;
use crate::{
    engine::IdempotencyKey,
    refusal::Refusal,
    routes::{
        document::Document,
        exchange::{Answered, Caller, ContextId, Idempotency, Lines, Message, Parameters},
        transfer::ExportStream,
    },
};

impl OperationInput for Caller {}

impl<T: JsonSchema> OperationInput for Message<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = context.schema.subschema_for::<T>();
        let bodies = [Format::Json, Format::MessagePack]
            .map(|format| (format.media_type().to_owned(), of_schema(schema.clone())));
        set_body(context, operation, RequestBody { content: bodies.into(), required: true, ..RequestBody::default() });
        refuses(operation, &[Code::MediaTypeUnsupported, Code::FieldInvalid]);
    }
}

impl OperationInput for Lines {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = lines_of(&context.schema.subschema_for::<ExportedContext>());
        let bodies =
            [Self::MEDIA_TYPE, Self::OTHER_MEDIA_TYPE].map(|name| (name.to_owned(), of_schema(schema.clone())));
        set_body(context, operation, RequestBody { content: bodies.into(), required: true, ..RequestBody::default() });
        refuses(operation, &[Code::MediaTypeUnsupported]);
    }
}

impl<T: JsonSchema> OperationInput for Parameters<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = T::json_schema(&mut context.schema);
        let parameters = parameters_from_schema(context, schema, ParamLocation::Query);
        add_parameters(context, operation, parameters);
        // Some values are understood and refused by the engine.
        refuses(operation, &[Code::ParameterInvalid, Code::FieldInvalid]);
    }
}

impl OperationInput for ContextId {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = context.schema.subschema_for::<uuid::Uuid>();
        let data = ParameterData { required: true, ..parameter("id", "The context's id.", schema) };
        add_parameters(context, operation, [Parameter::Path { parameter_data: data, style: PathStyle::Simple }]);
        refuses(operation, &[Code::ParameterInvalid]);
    }
}

impl OperationInput for Idempotency {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = json_schema!({
            "type": "string", "minLength": 1, "maxLength": IdempotencyKey::LONGEST, "pattern": IdempotencyKey::PATTERN,
            "examples": ["8e03978e-40d5-43dd-bc93-6894a57f9324"],
        });
        let description = "The same for each attempt at the same write, so that it is done once.";
        let data = parameter("Idempotency-Key", description, schema);
        add_parameters(context, operation, [Parameter::Header { parameter_data: data, style: HeaderStyle::Simple }]);
        refuses(operation, &[Code::ParameterInvalid, Code::IdempotencyKeyReused]);
    }
}

impl OperationOutput for Refusal {
    type Inner = Self;
}

impl<T: JsonSchema> OperationOutput for Answered<T> {
    type Inner = T;

    fn operation_response(context: &mut GenContext, _: &mut Operation) -> Option<Response> {
        let schema = context.schema.subschema_for::<T>();
        let bodies = [Format::Json, Format::MessagePack]
            .map(|format| (format.media_type().to_owned(), of_schema(schema.clone())));
        Some(Response { content: bodies.into(), ..Response::default() })
    }

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        inferred::<Self>(context, operation)
    }
}

impl OperationOutput for ExportStream {
    type Inner = Self;

    fn operation_response(context: &mut GenContext, _: &mut Operation) -> Option<Response> {
        let (line, last) =
            (context.schema.subschema_for::<ExportedContext>(), context.schema.subschema_for::<ExportEnd>());
        let schema = lines_of(&json_schema!({"anyOf": [line, last]}));
        let bodies = [(Lines::MEDIA_TYPE.to_owned(), of_schema(schema))];
        Some(Response { content: bodies.into(), ..Response::default() })
    }

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        inferred::<Self>(context, operation)
    }
}

impl OperationOutput for Document {
    type Inner = Self;

    fn operation_response(_: &mut GenContext, _: &mut Operation) -> Option<Response> {
        let bodies = [(Format::Json.media_type().to_owned(), of_schema(json_schema!({"type": "object"})))];
        Some(Response { content: bodies.into(), ..Response::default() })
    }

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        inferred::<Self>(context, operation)
    }
}

/// The answer as the default one; the operation's [`super::Description`] knows under which status codes it comes.
fn inferred<T: OperationOutput>(
    context: &mut GenContext,
    operation: &mut Operation,
) -> Vec<(Option<StatusCode>, Response)> {
    T::operation_response(context, operation).map(|response| (None, response)).into_iter().collect()
}

/// JSON Lines: OpenAPI 3.1 has no word for the schema of a line, so it stands in an extension.
fn lines_of(line: &Schema) -> Schema {
    json_schema!({"type": "string", "description": "A JSON document on each line, see `x-line-schema`.", "x-line-schema": line})
}

fn of_schema(json_schema: Schema) -> MediaType {
    let schema = SchemaObject { json_schema, external_docs: None, example: None };
    MediaType { schema: Some(schema), ..MediaType::default() }
}

fn parameter(name: &str, description: &str, json_schema: Schema) -> ParameterData {
    ParameterData {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        required: false,
        deprecated: None,
        format: ParameterSchemaOrContent::Schema(SchemaObject { json_schema, external_docs: None, example: None }),
        example: None,
        examples: [].into(),
        explode: None,
        extensions: [].into(),
    }
}
