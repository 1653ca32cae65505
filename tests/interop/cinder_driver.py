"""Drives OpenStack Cinder's own, unmodified S3 backup driver, as cinder-backup would.

One JSON command a line comes in, one JSON answer a line goes out: {"ok": …} or {"error": text}. Of Cinder's
surroundings only what its driver asks for is here: its settings, its database (SQLite, made by its own
migrations), and a plain file in place of a volume's device.

    {"do": "setup", "endpoint", "access_key", "secret_key", "bucket", "folder"}
    {"do": "backup", "image", "volume", "parent", "size", "compression", "chunk", "block"}   -> the backup's record
    {"do": "import", "url" or "record"}  a record, as `cinder backup-import` takes it, or what is in it
    {"do": "export", "backup"}         -> a record, as `cinder backup-export` prints it
    {"do": "restore", "backup", "to", "new"}   -> the volume's metadata
    {"do": "delete", "backup"}
"""
import base64
import json
import os
import sys
import types
import warnings

warnings.simplefilter('ignore')
# The answers' own channel: libraries may print.
answers = os.fdopen(os.dup(1), 'w', buffering=1)
os.dup2(2, 1)
os.environ.setdefault('AWS_EC2_METADATA_DISABLED', 'true')
os.environ.setdefault('AWS_DEFAULT_REGION', 'us-east-1')

import cinder.monkey_patch

# As bin/cinder-backup does by default.
cinder.monkey_patch.patch('eventlet')

import logging

from oslo_config import cfg
from oslo_log import log
from oslo_messaging.notify import notifier

from cinder import context
from cinder import objects
from cinder import utils

# The manager's signatures name classes that are only there after this.
objects.register_all()

from cinder.backup import manager
from cinder.backup.drivers import s3
from cinder.common import config  # noqa: F401 (registers the options)
from cinder.db import api as db
from cinder.db import migration
from cinder.objects import fields

CONF = cfg.CONF
SERVICE = 's3.S3BackupDriver'
# Whom an imported backup belongs to until its record is read.
NOBODY = '00000000-0000-0000-0000-000000000000'
OWNER = context.RequestContext(user_id='u' * 8, project_id='p' * 8, is_admin=True)


def setup(command):
    log.register_options(CONF)
    # There is no message bus: no notification driver either.
    CONF.register_opts(notifier._notifier_opts, group='oslo_messaging_notifications')
    CONF([], project='cinder', default_config_files=[])
    folder = command['folder']
    CONF.set_override('connection', 'sqlite:///%s/cinder.sqlite' % folder, 'database')
    CONF.set_override('state_path', folder)
    CONF.set_override('lock_path', folder, 'oslo_concurrency')
    CONF.set_override('backup_s3_endpoint_url', command['endpoint'])
    CONF.set_override('backup_s3_store_access_key', command['access_key'])
    CONF.set_override('backup_s3_store_secret_key', command['secret_key'])
    CONF.set_override('backup_s3_store_bucket', command['bucket'])
    CONF.set_override('backup_s3_verify_ssl', False)
    logging.basicConfig(level=logging.ERROR)
    db.configure(CONF)
    migration.db_sync()


def driver():
    made = s3.S3BackupDriver(OWNER)
    made.check_for_setup_error()
    return made


def ensure_volume(volume, size):
    try:
        db.volume_get(OWNER, volume)
    except cinder.exception.VolumeNotFound:
        kinds = objects.VolumeTypeList.get_all(OWNER)
        db.volume_create(OWNER, {
            'id': volume, 'size': size, 'status': 'in-use', 'user_id': OWNER.user_id,
            'project_id': OWNER.project_id, 'display_name': 'a volume', 'bootable': False,
            'volume_type_id': kinds[0].id, 'availability_zone': 'nova', 'host': 'host@backend#pool',
            'metadata': {'made-by': 'cinder'}})


def backup(command):
    CONF.set_override('backup_compression_algorithm', command['compression'])
    CONF.set_override('backup_s3_object_size', command['chunk'])
    CONF.set_override('backup_s3_block_size', command['block'])
    ensure_volume(command['volume'], command['size'])
    made = objects.Backup(
        OWNER, volume_id=command['volume'], parent_id=command.get('parent'),
        size=command['size'], status=fields.BackupStatus.CREATING, user_id=OWNER.user_id,
        project_id=OWNER.project_id, host='host', availability_zone='nova', service=SERVICE,
        display_name='made by Cinder')
    made.create()
    with open(command['image'], 'rb') as image:
        driver().backup(made, utils.tpool_wrap(image))
    made.status = fields.BackupStatus.AVAILABLE
    made.save()
    return {'id': made.id, 'prefix': made.service_metadata, 'objects': made.object_count}


def import_record(command):
    url = command.get('url') or base64.b64encode(json.dumps(command['record']).encode()).decode()
    record = objects.Backup.decode_record(url)
    # As the API's _get_import_backup makes it, less the quota.
    made = objects.BackupImport(
        context=OWNER, id=record['id'], user_id=OWNER.user_id, project_id=OWNER.project_id, volume_id=NOBODY,
        status=fields.BackupStatus.CREATING, deleted_at=None, deleted=False, metadata={})
    made.create()
    surroundings = types.SimpleNamespace(
        _is_our_backup=lambda service: service == 'cinder.backup.drivers.' + SERVICE,
        service=s3.S3BackupDriver, driver_name=SERVICE, az='nova', host='host')
    manager.BackupManager.import_record(
        surroundings, OWNER, made, 'cinder.backup.drivers.' + SERVICE, url, [])
    ensure_volume(made.volume_id, made.size)
    return made.id


def export_record(command):
    return objects.Backup.get_by_id(OWNER, command['backup']).encode_record(driver_info={})


def restore(command):
    wanted = objects.Backup.get_by_id(OWNER, command['backup'])
    wanted.status = fields.BackupStatus.RESTORING
    wanted.save()
    with open(command['to'], 'r+b') as target:
        driver().restore(wanted, wanted.volume_id, utils.tpool_wrap(target), command['new'])
    wanted.status = fields.BackupStatus.AVAILABLE
    wanted.save()
    return dict(db.volume_metadata_get(OWNER, wanted.volume_id))


def delete(command):
    driver().delete_backup(objects.Backup.get_by_id(OWNER, command['backup']))


VERBS = {'setup': setup, 'backup': backup, 'import': import_record, 'export': export_record,
         'restore': restore, 'delete': delete}


def main():
    for line in sys.stdin:
        try:
            command = json.loads(line)
            answer = {'ok': VERBS[command['do']](command)}
        except Exception as error:
            logging.exception('failed')
            answer = {'error': '%s: %s' % (type(error).__name__, error)}
        answers.write(json.dumps(answer) + '\n')


main()
