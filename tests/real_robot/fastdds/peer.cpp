// A peer that is not ours: Debian's Fast DDS moves CDR payloads under any topic and type name of ROS 2.
//   peer listen TOPIC TYPE reliable|best-effort COUNT     prints each payload in hexadecimal, one a line
//   peer say    TOPIC TYPE reliable|best-effort HZ        publishes the payloads on its input (hexadecimal), again
//                                                         and again, until whoever started it is gone
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/Topic.hpp>
#include <fastdds/dds/topic/TopicDataType.hpp>
#include <fastdds/rtps/transport/UDPv4TransportDescriptor.h>

namespace fast = eprosima::fastdds::dds;
namespace rtps = eprosima::fastrtps::rtps;
using Bytes = std::vector<std::uint8_t>;

// A type of which nothing is known but its name; a sample is its payload, the four bytes of header included.
class Opaque : public fast::TopicDataType {
 public:
  explicit Opaque(const std::string& name) {
    setName(name.c_str());
    m_typeSize = 8u << 20;
    m_isGetKeyDefined = false;
    auto_fill_type_object(false);
    auto_fill_type_information(false);
  }
  bool serialize(void* data, rtps::SerializedPayload_t* payload) override {
    const Bytes& bytes = *static_cast<Bytes*>(data);
    std::memcpy(payload->data, bytes.data(), bytes.size());
    payload->length = static_cast<std::uint32_t>(bytes.size());
    payload->encapsulation = CDR_LE;
    return true;
  }
  bool deserialize(rtps::SerializedPayload_t* payload, void* data) override {
    static_cast<Bytes*>(data)->assign(payload->data, payload->data + payload->length);
    return true;
  }
  std::function<std::uint32_t()> getSerializedSizeProvider(void* data) override {
    return [data] { return static_cast<std::uint32_t>(static_cast<Bytes*>(data)->size()); };
  }
  void* createData() override { return new Bytes; }
  void deleteData(void* data) override { delete static_cast<Bytes*>(data); }
  bool getKey(void*, rtps::InstanceHandle_t*, bool) override { return false; }
};

template <class Qos>
void set(Qos& qos, bool reliable) {
  qos.reliability().kind = reliable ? fast::RELIABLE_RELIABILITY_QOS : fast::BEST_EFFORT_RELIABILITY_QOS;
  qos.history().depth = 10;
  qos.endpoint().history_memory_policy = rtps::PREALLOCATED_WITH_REALLOC_MEMORY_MODE;
  qos.data_sharing().off();
}

Bytes from_hex(const std::string& text) {
  Bytes bytes;
  for (std::size_t at = 0; at + 1 < text.size(); at += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(text.substr(at, 2), nullptr, 16)));
  }
  return bytes;
}

std::string to_hex(const Bytes& bytes) {
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (std::uint8_t byte : bytes) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

int main(int count, char** words) {
  if (count != 6) {
    std::cerr << "peer listen|say TOPIC TYPE reliable|best-effort COUNT|HZ\n";
    return 2;
  }
  const bool reliable = !std::strcmp(words[4], "reliable");
  fast::DomainParticipantQos about;
  auto udp = std::make_shared<eprosima::fastdds::rtps::UDPv4TransportDescriptor>();
  udp->interfaceWhiteList = {"127.0.0.1"};
  udp->receiveBufferSize = udp->sendBufferSize = 4 << 20;
  about.transport().use_builtin_transports = false;
  about.transport().user_transports = {udp};
  auto* participant = fast::DomainParticipantFactory::get_instance()->create_participant(0, about);
  fast::TypeSupport type(new Opaque(words[3]));
  type.register_type(participant);
  auto* topic = participant->create_topic(words[2], words[3], fast::TOPIC_QOS_DEFAULT);
  if (!std::strcmp(words[1], "listen")) {
    auto qos = fast::DATAREADER_QOS_DEFAULT;
    set(qos, reliable);
    auto* reader = participant->create_subscriber(fast::SUBSCRIBER_QOS_DEFAULT)->create_datareader(topic, qos);
    Bytes bytes;
    fast::SampleInfo info;
    for (int left = std::stoi(words[5]); left > 0;) {
      reader->wait_for_unread_message({0, 200000000});
      while (left > 0 && reader->take_next_sample(&bytes, &info) == ReturnCode_t::RETCODE_OK) {
        if (info.valid_data) {
          std::cout << to_hex(bytes) << std::endl;
          --left;
        }
      }
    }
    _exit(0);  // its destructors take seconds
  }
  auto qos = fast::DATAWRITER_QOS_DEFAULT;
  set(qos, reliable);
  qos.publish_mode().kind = fast::ASYNCHRONOUS_PUBLISH_MODE;
  auto* writer = participant->create_publisher(fast::PUBLISHER_QOS_DEFAULT)->create_datawriter(topic, qos);
  std::vector<Bytes> payloads;
  for (std::string line; std::getline(std::cin, line);) payloads.push_back(from_hex(line));
  const std::chrono::duration<double> pause(1.0 / std::stod(words[5]));
  for (const pid_t parent = getppid(); getppid() == parent;) {
    for (Bytes& payload : payloads) {
      writer->write(&payload);
      std::this_thread::sleep_for(pause);
    }
  }
  _exit(0);
}
