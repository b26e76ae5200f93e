"""Tests that each adapter reads files in the layout of the published data set."""

import gzip

import pandas as pd
import pytest

from features import messages
from features.ingest.ingest import ADAPTERS, LogError, adapter_of, validate_log
from mtorl.log.dataset import DatasetSpec, SpecError, built_in
from tests.features.shop_log import canonical
from tests.messages import assert_says, raises


def faults(path, spec) -> dict[tuple[str, str], str]:
    return {(f.rule, f.column): f.example for f in validate_log(path, spec).faults}


# ---- the authors' KuaiRand sample


def kuairand_sample() -> pd.DataFrame:
    spec = DatasetSpec.load("kuairand-sequence")
    frame = pd.DataFrame({"user_id": ["2.0"] * 3 + ["5.0"] * 3, "time_ms": [0.1, 0.1, 0.1 + 1e-13, 0.2, 0.3, 0.4]})
    frame = frame.assign(is_click=0.0, long_view=0.0, play_time_ms=0.5, hourmin=0.5, full_active=1.0)
    frame = frame.assign(short=[1.0, 0, 0] * 2, mid=[0.0, 1, 0] * 2, long=[0.0, 0, 1] * 2)
    flags = ["2_14_day_new", "30day_retention", "UNKNOWN", "day_new", "high_active", "low_active", "middle_active"]
    frame[[*flags, "single_low_active"]] = 0.0
    frame[[c.name for c in spec.static if c.name != "activity"]] = 0.25
    frame.insert(0, "", range(100, 106))
    return frame


def test_kuairand_sample_ties_are_put_in_file_order(tmp_path):
    spec = DatasetSpec.load("kuairand-sequence")
    frame = kuairand_sample()
    # A touchpoint at the same time and on the same channel is not a duplicate.
    frame.loc[1, ["short", "mid"]] = [1.0, 0.0]
    frame.to_csv(tmp_path / "log.csv", index=False)
    log, report = canonical(tmp_path / "log.csv", spec)
    assert log["user_id"].tolist() == ["2"] * 3 + ["5"] * 3
    assert log["channel"].tolist() == ["short", "short", "long", "short", "mid", "long"]
    assert log["timestamp"].diff().iloc[1:3].tolist() == [pd.Timedelta("1us")] * 2
    assert log["timestamp"][0] == pd.Timestamp("2024-01-04", tz="UTC")  # time 0.1 of 30 days
    assert set(log["activity"]) == {"full_active"} and (log["cost"] == 1).all()
    assert report.moved_ties == 2


# ---- the authors' Criteo sample


def criteo_sample() -> pd.DataFrame:
    spec = DatasetSpec.load("criteo-sequence")
    frame = pd.DataFrame({"": [8, 10, 12, 27], "uid": [22, 29, 22, 29], "campaign": [0.8, 0.5, 0.8, 0.5]})
    frame = frame.assign(conversion=0, attribution=0, click=1, click_nb=-1, cost=0.01, cpo=0.7)
    frame[[c.name for c in spec.context]] = 0.5
    for i, name in enumerate(spec.channels):
        frame[name] = [i == 3, i == 0, i == 3, i == 10]
    return frame


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_criteo_sample_time_is_the_row_index(tmp_path, kind):
    spec = DatasetSpec.load("criteo-sequence")
    path = tmp_path / f"log.{kind}"
    frame = criteo_sample().rename(columns={"": "Unnamed: 0"} if kind == "parquet" else {})
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    log, _ = canonical(path, spec)
    assert log["timestamp"].dt.second.tolist() == [8, 12, 10, 27]
    assert log["channel"].tolist() == [spec.channels[i] for i in (3, 3, 0, 10)]
    assert log["campaign_id"].tolist() == ["c1", "c1", "c0", "c0"]
    assert list(log)[-3:] == ["attribution", "click_nb", "cpo"]


def test_criteo_sample_faults(tmp_path):
    spec = DatasetSpec.load("criteo-sequence")
    path = tmp_path / "log.csv"
    frame = criteo_sample()
    frame.drop(columns=["", "cat7"]).to_csv(path, index=False)
    with raises(LogError, messages.MISSING_COLUMNS, missing=["the unnamed first column (row index)", "cat7"]):
        validate_log(path, spec)
    broken = frame.astype(object)
    broken.loc[0, [spec.channels[3], "campaign"]] = ["maybe", None]
    broken.to_csv(path, index=False)
    found = faults(path, spec)
    assert found["unknown_channel", "Type_*"].startswith("'0 of 11")
    assert found["missing_value", "campaign"] == ""


# ---- Criteo Attribution Modeling, raw

CRITEO_HEADER = (
    "timestamp\tuid\tcampaign\tconversion\tconversion_timestamp\tconversion_id\tattribution\tclick\tclick_pos\t"
    "click_nb\tcost\tcpo\ttime_since_last_click\tcat1\tcat2\tcat3\tcat4\tcat5\tcat6\tcat7\tcat8\tcat9"
)
CRITEO = [
    # Invented rows with the real file's columns, value ranges and order by time.
    "0\t101\t9001\t0\t-1\t-1\t0\t0\t-1\t-1\t1e-05\t0.39\t-1\t11\t21\t31\t41\t51\t61\t71\t29196072\t91",
    "2\t102\t9002\t0\t-1\t-1\t0\t0\t-1\t-1\t1e-05\t0.05\t423858\t11\t21\t31\t41\t51\t61\t72\t9312274\t91",
    "7\t101\t9001\t1\t1449193\t3063962\t1\t1\t0\t7\t0.000183\t0.15\t-1\t12\t21\t31\t41\t51\t61\t71\t29841067\t92",
    "7\t101\t9001\t1\t1449193\t3063962\t1\t1\t0\t7\t0.000183\t0.15\t-1\t12\t22\t31\t41\t51\t61\t71\t29841067\t92",
    "2671199\t102\t9003\t0\t-1\t-1\t0\t0\t-1\t-1\t0.0002\t0.3\t8879\t11\t21\t31\t41\t51\t61\t72\t9312274\t91",
]


def test_criteo_raw(tmp_path):
    path = tmp_path / "criteo_attribution_dataset.tsv.gz"
    path.write_bytes(gzip.compress("\n".join([CRITEO_HEADER, *CRITEO, ""]).encode()))
    log, report = canonical(path, DatasetSpec.load("criteo-attribution"))
    assert report.faults == () and report.users == 2
    assert log["user_id"].tolist() == ["101"] * 3 + ["102"] * 2
    assert log["campaign_id"].tolist() == ["9001"] * 3 + ["9002", "9003"]
    assert log["channel"].tolist() == [*["Type_29196072"], *["Type_29841067"] * 2, *["Type_9312274"] * 2]
    start = pd.Timestamp("2024-01-01", tz="UTC")
    # Two rows differ only in cat2. Both are kept, and the second is moved by 1 us so that their times differ.
    seconds = [0, 7, 7.000001, 2, 2671199]
    assert ((log["timestamp"] - start) / pd.Timedelta("1s")).tolist() == seconds and report.moved_ties == 1
    assert log["cost"].tolist() == [1e-05, 0.000183, 0.000183, 1e-05, 0.0002]
    assert log[["click", "conversion", "attribution"]].sum().tolist() == [2, 2, 2]
    assert (log["revenue"] == 0).all() and log["propensity"].isna().all()
    for column in ("click_pos", "click_nb"):  # -1 means missing
        assert log[column].notna().tolist() == [False, True, True, False, False]
    assert log["time_since_last_click"].fillna(-9).tolist() == [-9, -9, -9, 423858, 8879]
    assert log["cat1"].tolist() == ["11", "12", "12", "11", "11"]


def test_criteo_raw_faults(tmp_path):
    spec = DatasetSpec.load("criteo-attribution")
    path = tmp_path / "c.tsv"
    bad = [
        CRITEO[0].replace("29196072", "5"),
        CRITEO[1].replace("2\t102", "soon\t102", 1),
        CRITEO[2].replace("1449193\t3063962\t1\t1", "1449193\t3063962\t1\t-1"),
        CRITEO[3],
        CRITEO[3],
    ]
    path.write_text("\n".join([CRITEO_HEADER, *bad]))
    found = faults(path, spec)
    assert found == {
        ("unknown_channel", "cat8"): "'5'",
        ("unparsable_timestamp", "timestamp"): "'soon'",
        ("not_binary", "click"): "'-1'",
        ("duplicate_touchpoint", "timestamp"): "'7'",
    }
    path.write_text("\n".join([CRITEO_HEADER, *CRITEO, CRITEO[0] + "\t1"]))
    with pytest.raises(LogError, match=r"line 7;.* 22 Found: 23") as caught:
        validate_log(path, spec)
    assert_says(caught.value, messages.UNREADABLE, kind="TSV")
    with raises(LogError, messages.OTHER_DATASET, dataset="criteo-attribution"):
        validate_log(path, DatasetSpec.load("simulator"))


# ---- KuaiRand, raw

KUAIRAND_LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
KUAIRAND_USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{i}" for i in range(18))
)
RANDOM = [
    "3,1071,20220422,1600,1650614400500,1,0,0,0,0,0,1,175045,87433,0,0,0,1,1",
    "3,55,20220422,1600,1650614400500,0,0,0,0,0,1,0,0,9000,0,0,0,1,1",
    "7,56,20220423,5,1650700000000,0,0,0,0,0,0,0,1385,209900,0,12,0,1,4",
]
STANDARD = ["3,90,20220408,1959,1649419140000,1,1,0,0,0,0,0,4000,49999,0,0,0,0,0"]
USERS = [
    '3,full_active,0,0,1,5,"(0,10]",312,"[100,1k)",0,0,3624,730+,1,2,2,1153,4,0,0,31,354,3,3,2,1,0,0,0,0,0',
    '4,high_active,0,0,0,5,"(0,10]",0,0,0,0,31,31-60,1,2,2,1153,4,0,0,31,354,3,3,2,1,0,0,0,0,0',
]


@pytest.fixture
def kuairand(tmp_path):
    folder = tmp_path / "KuaiRand-Pure" / "data"
    folder.mkdir(parents=True)
    (folder / "log_random_4_22_to_5_08_pure.csv").write_text("\n".join([KUAIRAND_LOG, *RANDOM, ""]))
    (folder / "log_standard_4_08_to_4_21_pure.csv").write_text("\n".join([KUAIRAND_LOG, *STANDARD, ""]))
    (folder / "user_features_pure.csv").write_text("\n".join([KUAIRAND_USERS, *USERS, ""]))
    (folder / "video_features_basic_pure.csv").write_text("video_id,author_id\n1071,5\n")
    return folder


def test_kuairand_raw(kuairand):
    spec = DatasetSpec.load("kuairand")
    log, report = canonical(kuairand, spec)
    assert report.faults == () and report.users == 2
    assert log["user_id"].tolist() == ["3", "3", "3", "7"]
    # Two videos at the same time are both kept; the second is moved by 1 us.
    times = [1649419140000000, 1650614400500000, 1650614400500001, 1650700000000000]
    assert log["timestamp"].astype("int64").tolist() == times and report.moved_ties == 1
    assert log["channel"].tolist() == ["short", "mid", "short", "long"]  # 49.999, 87.4, 9 and 209.9 s
    assert log["hour"].tolist() == [19, 16, 16, 0] and log["tab"].tolist() == ["0", "1", "1", "4"]
    assert log["click"].tolist() == [1, 1, 0, 0] and log["conversion"].tolist() == [0, 1, 0, 0]
    assert log["revenue"].tolist() == [4000, 175045, 0, 1385] and (log["cost"] == 1).all()
    assert log["is_hate"].tolist() == [0, 0, 1, 0] and log["comment_stay_time"].tolist() == [0, 0, 0, 12]
    assert log["user_active_degree"].tolist() == ["full_active"] * 3 + [None]  # user 7 has no features
    assert log["register_days"].fillna(-1).tolist() == [3624.0] * 3 + [-1]
    assert log["onehot_feat1"].tolist() == ["2"] * 3 + [None]
    alone, _ = canonical(kuairand / "log_random_4_22_to_5_08_pure.csv", spec)
    assert alone["user_id"].tolist() == ["3", "3", "7"] and alone["onehot_feat1"].tolist() == ["2", "2", None]


def test_kuairand_raw_needs_its_user_features(kuairand, tmp_path):
    spec = DatasetSpec.load("kuairand")
    (kuairand / "user_features_pure.csv").unlink()
    with pytest.raises(LogError, match="user_features"):
        validate_log(kuairand, spec)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogError, match="empty"):
        validate_log(tmp_path / "empty", spec)


# ---- columns that contain outcomes


@pytest.mark.parametrize(
    ("dataset", "column"),
    [
        *(("criteo-attribution", column) for column in ("attribution", "click_nb", "cpo", "cat8")),
        *(("criteo-sequence", "attribution"), ("kuairand-sequence", "play_time_ms")),
        *(("kuairand", "is_like"), ("kuairand", "duration_ms")),
    ],
)
@pytest.mark.parametrize("kind", ["context", "static"])
def test_an_outcome_can_not_be_context(tmp_path, dataset, column, kind):
    data = DatasetSpec.load(dataset).to_dict()
    data["outcomes"] = [c for c in data["outcomes"] if c["name"] != column]
    data[kind].append({"name": column, "kind": "numeric"})
    with pytest.raises(SpecError, match=f"{kind}: column '{column}'"):
        validate_log(tmp_path / "any.csv", DatasetSpec.from_dict(data))


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_an_ingested_log_is_read_again_with_the_description_of_the_raw_one(tmp_path, folder):
    spec = DatasetSpec.load("kuairand-sequence")
    kuairand_sample().to_csv(tmp_path / "log.csv", index=False)
    log, first = canonical(tmp_path / "log.csv", spec)
    again = tmp_path / ("touchpoints.parquet/part-0.parquet" if folder else "touchpoints.parquet")
    again.parent.mkdir(exist_ok=True)
    log.to_parquet(again, index=False)
    found, report = canonical(again.parent if folder else again, spec)
    pd.testing.assert_frame_equal(found, log)
    assert report.fingerprint == first.fingerprint


def test_no_raw_layout_is_mistaken_for_the_canonical_one():
    for spec in map(DatasetSpec.load, built_in()):
        if spec.adapter not in ("touchpoints", "simulator"):
            assert not set(adapter_of(spec).required(spec)) >= set(ADAPTERS["touchpoints"].required(spec))


def test_columns_that_contain_outcomes_are_typed_as_outcomes():
    for name, wanted in (("criteo-attribution", {"attribution", "click_pos", "click_nb", "cpo"}), ("kuairand", set())):
        spec = DatasetSpec.load(name)
        known = {c for c, why in adapter_of(spec).never_context.items() if why.startswith("an outcome")}
        assert wanted <= {c.name for c in spec.outcomes} <= known and spec.min_touchpoints == 1
