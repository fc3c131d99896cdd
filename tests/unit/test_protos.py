"""Our subsets of the Envoy API have the wire format of the whole."""

import dataclasses
import datetime as dt
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
)

import tollhouse.pb.envoy

# One of these unlisted would arrive as "nothing set".
SWITCHED_ON = {"envoy.service.ext_proc.v3.ProcessingRequest.request"}

FIELD_TYPES = descriptor_pb2.FieldDescriptorProto.DESCRIPTOR.enum_types_by_name["Type"]
REFERENCES = {"message", "enum"}


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """What a field is on the wire, in words that both sides have."""

    name: str
    number: int
    kind: str
    """Type as in a .proto file, or message, enum, map."""
    repeated: bool
    oneof: str | None
    refers_to: type | None
    """The message or enum, of a map its value's."""
    entry: tuple[str, ...]
    """Kinds of a map's key and value; empty elsewhere."""


def find_files() -> dict[str, FileDescriptor]:
    """Find every generated Envoy file by its name."""
    modules = pkgutil.walk_packages(
        tollhouse.pb.envoy.__path__, f"{tollhouse.pb.envoy.__name__}."
    )
    files = [
        importlib.import_module(module.name).DESCRIPTOR
        for module in modules
        if module.name.endswith("_pb2")
    ]
    return {file.name: file for file in files}


FILES = find_files()


def find_class(descriptor: Descriptor | EnumDescriptor) -> Any:
    """Find envoy-data-plane's class of a message or enum; `A.B` is its `AB`."""
    if descriptor.full_name == "google.protobuf.Duration":
        return dt.timedelta  # what betterproto2 makes of it
    package = descriptor.file.package
    module = importlib.import_module(f"envoy_data_plane.{package}")
    name = descriptor.full_name.removeprefix(f"{package}.").replace(".", "")
    return getattr(module, name)


def name_kind(field: FieldDescriptor) -> str:
    """Name a field's type as in a .proto file, or message, or enum."""
    return FIELD_TYPES.values_by_number[field.type].name[len("TYPE_") :].lower()


def read_ours(message: Descriptor) -> list[Field]:
    """Read the fields of a message of ours."""
    fields = []
    for field in message.fields:
        entry, value = [], field
        if field.message_type and field.message_type.GetOptions().map_entry:
            entry = list(field.message_type.fields)
            value = entry[1]
        reference = value.message_type or value.enum_type
        fields.append(
            Field(
                name=field.name,
                number=field.number,
                kind="map" if entry else name_kind(field),
                repeated=field.is_repeated and not entry,
                oneof=field.containing_oneof.name if field.containing_oneof else None,
                refers_to=find_class(reference) if reference else None,
                entry=tuple(name_kind(part) for part in entry),
            )
        )
    return fields


def read_theirs(cls: Any) -> dict[str, Field]:
    """Read the fields of an envoy-data-plane class by their names."""
    fields = {}
    for field in dataclasses.fields(cls):
        meta = field.metadata["betterproto"]
        entry = tuple(part.proto_type for part in meta.map_meta or ())
        value_kind = entry[1] if entry else meta.proto_type
        value_name = f"{field.name}.value" if entry else field.name
        classes = cls._betterproto.cls_by_field
        fields[field.name] = Field(
            name=field.name,
            number=meta.number,
            kind=meta.proto_type,
            repeated=meta.repeated,
            oneof=meta.group,
            refers_to=classes[value_name] if value_kind in REFERENCES else None,
            entry=entry,
        )
    return fields


def compare_message(message: Descriptor) -> Iterator[str]:
    """Say how a message and what is nested in it differs from Envoy's."""
    ours, theirs = read_ours(message), read_theirs(find_class(message))
    for field in ours:
        if field != theirs.get(field.name):
            yield f"{message.full_name}: {field}, not {theirs.get(field.name)}"
    for missing in theirs.keys() - {field.name for field in ours}:
        if f"{message.full_name}.{theirs[missing].oneof}" in SWITCHED_ON:
            yield f"{message.full_name}: {missing} is not listed"
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from compare_message(nested)
    for enum in message.enum_types:
        yield from compare_enum(enum)


def compare_enum(enum: EnumDescriptor) -> Iterator[str]:
    """Say how an enum differs from Envoy's."""
    theirs = {value.name: value.value for value in find_class(enum)}
    for value in enum.values:
        number = theirs.get(value.name)
        if value.number != number:
            yield f"{enum.full_name}.{value.name}: {value.number}, not {number}"


def compare_file(file: FileDescriptor) -> list[str]:
    """Say how a file's messages and enums differ from Envoy's."""
    differences: list[str] = []
    for message in file.message_types_by_name.values():
        differences.extend(compare_message(message))
    for enum in file.enum_types_by_name.values():
        differences.extend(compare_enum(enum))
    return differences


@pytest.mark.parametrize("name", sorted(FILES))
def test_subset_agrees_with_envoy(name):
    """Every message, field and enum value has Envoy's number, type and label."""
    assert compare_file(FILES[name]) == []


def test_every_oneof_switched_on_exists():
    """A renamed oneof must not drop out of the comparison."""
    found = {
        f"{message.full_name}.{oneof.name}"
        for file in FILES.values()
        for message in file.message_types_by_name.values()
        for oneof in message.oneofs
    }

    assert found >= SWITCHED_ON


def change(name, edit):
    """Rebuild the file `name` after `edit` changed its proto, and compare it."""
    proto = descriptor_pb2.FileDescriptorProto()
    FILES[name].CopyToProto(proto)
    edit(proto)
    pool = descriptor_pool.DescriptorPool()
    known: set[str] = set()

    def add_imports(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            if dependency.name not in known:
                known.add(dependency.name)
                add_imports(dependency)
                pool.AddSerializedFile(dependency.serialized_pb)

    add_imports(FILES[name])
    pool.AddSerializedFile(proto.SerializeToString())
    return compare_file(pool.FindFileByName(name))


BASE = "envoy/config/core/v3/base.proto"
EXT_PROC = "envoy/service/ext_proc/v3/external_processor.proto"


def renumber_field(proto):
    proto.message_type[0].field[2].number = 4


def retype_field(proto):
    proto.message_type[0].field[
        2
    ].type = descriptor_pb2.FieldDescriptorProto.TYPE_STRING


def repeat_field(proto):
    repeated = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    proto.message_type[1].field[0].label = repeated


def rename_field(proto):
    proto.message_type[0].field[0].name = "name"


def renumber_enum_value(proto):
    proto.message_type[1].enum_type[0].value[3].number = 4


def refer_to_another_message(proto):
    proto.message_type[2].field[0].type_name = ".envoy.config.core.v3.HeaderValueOption"


def retype_map_value(proto):
    value = proto.message_type[3].nested_type[0].field[1]
    value.type_name = ".google.protobuf.Value"


def unlist_member(proto):
    del proto.message_type[0].field[5]


def leave_oneof(proto):
    proto.message_type[0].field[0].ClearField("oneof_index")


@pytest.mark.parametrize(
    ("name", "edit", "subject"),
    [
        (BASE, renumber_field, "HeaderValue: Field(name='raw_value', number=4"),
        (BASE, retype_field, "HeaderValue: Field(name='raw_value'"),
        (BASE, repeat_field, "HeaderValueOption: Field(name='header'"),
        (BASE, rename_field, "HeaderValue: Field(name='name'"),
        (BASE, refer_to_another_message, "HeaderMap: Field(name='headers'"),
        (BASE, retype_map_value, "Metadata: Field(name='filter_metadata'"),
        (BASE, renumber_enum_value, "HeaderAppendAction.OVERWRITE_IF_EXISTS: 4"),
        (EXT_PROC, unlist_member, "ProcessingRequest: response_trailers is not"),
        (EXT_PROC, leave_oneof, "ProcessingRequest: Field(name='request_headers'"),
    ],
)
def test_difference_is_found(name, edit, subject):
    """The comparison sees each kind of slip: it would say so if a proto had it."""
    (difference,) = change(name, edit)

    assert subject in difference


def test_xds_protos_is_absent():
    """It would turn `google` into a regular package and take our file names."""
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("xds-protos")
