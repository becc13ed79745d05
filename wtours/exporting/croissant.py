"""`croissant.json`: what a shard set is, for programs that read Croissant 1.1 (mlcroissant).

Paths are relative to the set's folder, so it moves with the set. mlcroissant knows no provenance
and no terms of use yet: those are as the specification shows them, in PROV-O and schema.org.
"""

from typing import Any

from wtours.exporting.card import described, license_url
from wtours.shards.images.codecs import Codec
from wtours.shards.schema import INDEX_FILE, Dataset, VideoRecord, set_sha256
from wtours.text import redact_url

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
_US = 1_000_000
_MEDIA_TYPES: dict[Codec, str] = {
    "jpeg": "image/jpeg",
    "webp-lossless": "image/webp",
    "png": "image/png",
}
_JSON_TERMS = ("data", "examples")
_TERMS = (
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty"),
    *("extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes"),
    *("isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source"),
    *("subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{term: {"@id": f"cr:{term}", "@type": "@json"} for term in _JSON_TERMS},
    **{term: f"cr:{term}" for term in _TERMS},
}
_COLUMNS = {
    "video_id": ("sc:Text", "The video."),
    "frame_index": ("sc:Integer", "The tick of the frame; with every frame its ordinal."),
    "pts_us": ("sc:Integer", "Microseconds from the video's first frame."),
    "shard": ("sc:Text", "The tar that holds the frame, without .tar."),
    "offset": ("sc:Integer", "Where the image begins in the tar, in bytes."),
    "size": ("sc:Integer", "Bytes of the image."),
    "shot": ("sc:Integer", "The shot, from 0; null: the video was not analyzed."),
    "lightness": ("sc:Float", "Mean CIELAB L*, 0 to 100; null: the video was not analyzed."),
}


def croissant(dataset: Dataset) -> dict[str, Any]:
    """Return the content of `croissant.json` of a shard set."""
    stated = [video.license_observed or "not observed" for video in dataset.videos]
    licenses = [license_url(v) or s for v, s in zip(dataset.videos, stated, strict=True)]
    digits = set_sha256(dataset.shards)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": dataset.name,
        "conformsTo": CONFORMS_TO,
        "description": f"{described(dataset)} Set hash: {digits}.",
        "identifier": f"sha256:{digits}",
        "version": f"0.0.0+sha256.{digits[:16]}",
        "license": list(dict.fromkeys(licenses)),
        "usageInfo": [
            {"@type": "sc:CreativeWork", "name": text, "description": "As the source states it."}
            for text in dict.fromkeys(stated)
        ],
        "keywords": ["video", "egocentric", "self-supervised learning"],
        "isBasedOn": [_video(video) for video in dataset.videos],
        "prov:wasDerivedFrom": [{"@id": f"videos/{video.video_id}"} for video in dataset.videos],
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": "wtours shard",
            "description": f"Sampled, reduced and encoded. {described(dataset)}",
        },
        "distribution": list(_files(dataset)),
        "recordSet": [_frames(), _images()],
    }


def _video(video: VideoRecord) -> dict[str, Any]:
    content = {
        "@type": "sc:VideoObject",
        "@id": f"videos/{video.video_id}",
        "name": video.title or video.video_id,
        "url": video.source and redact_url(video.source),
        "creator": video.channel and {"@type": "sc:Organization", "name": video.channel},
        "license": license_url(video),
        "sha256": video.source_sha256,
        "width": video.width,
        "height": video.height,
        "duration": f"PT{video.last_pts_us / _US:.3f}S",
    }
    return {name: value for name, value in content.items() if value is not None}


def _files(dataset: Dataset) -> list[dict[str, Any]]:
    tars = [
        _file(f"{shard.shard}.tar", "application/x-tar", shard.sha256, shard.bytes)
        for shard in dataset.shards
    ]
    index = dataset.index
    images = {
        "@type": "cr:FileSet",
        "@id": "images-in-tars",
        "containedIn": [{"@id": tar["@id"]} for tar in tars],
        "encodingFormat": _MEDIA_TYPES[dataset.params.codec],
        "includes": f"*{dataset.params.suffix}",
    }
    return [
        *tars,
        _file(INDEX_FILE, "application/x-parquet", index.sha256, index.bytes),
        images,
    ]


def _file(name: str, encoding: str, sha256: str, num_bytes: int) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{num_bytes} B",
        "encodingFormat": encoding,
        "sha256": sha256,
    }


def _frames() -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"frames/{column}",
            "name": column,
            "description": description,
            "dataType": data_type,
            "source": {"fileObject": {"@id": INDEX_FILE}, "extract": {"column": column}},
        }
        for column, (data_type, description) in _COLUMNS.items()
    ]
    key = [{"@id": "frames/video_id"}, {"@id": "frames/frame_index"}]
    return {"@type": "cr:RecordSet", "@id": "frames", "name": "frames", "key": key, "field": fields}


def _images() -> dict[str, Any]:
    def field(name: str, data_type: str, file_property: str, **more: Any) -> dict[str, Any]:
        extract = {"fileProperty": file_property}
        source = {"fileSet": {"@id": "images-in-tars"}, "extract": extract, **more}
        return {
            "@type": "cr:Field",
            "@id": f"images/{name}",
            "name": name,
            "dataType": data_type,
            "source": source,
        }

    fields = [
        field("key", "sc:Text", "filename", transform={"regex": r"^(.+)\.[a-z]+$"}),
        field("image", "sc:ImageObject", "content"),
    ]
    key = {"@id": "images/key"}
    return {"@type": "cr:RecordSet", "@id": "images", "name": "images", "key": key, "field": fields}
